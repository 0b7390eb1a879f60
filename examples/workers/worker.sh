#!/bin/sh
# A worker in the POSIX shell. Speaks Plain::Fallible; requests and replies are lists of octet strings
# without NULs, of which the first in a request names the function. Processes are started for every
# byte: it is to show that it can be done.

serve() {
    case $1 in
        upper) printf %s "$2" | tr '[:lower:]' '[:upper:]' ;;
        lines) sed -n '$=' "$2" ;;
        *) echo "there is no function \`$1\`" && return 1 ;;
    esac
}

# take N: as numbers, the next N bytes of standard input, and nothing of what follows.
take() { dd bs=1 count="$1" 2>/dev/null | od -An -v -tu1; }

# give NUMBER...: writes bytes.
give() { for byte in "$@"; do printf "\\$(printf %03o "$byte")"; done; }

export LC_ALL=C # lengths are those of bytes
while set -- $(take 8) && [ $# = 8 ]; do
    high=$1 id="$2 $3 $4" left=$(($5 << 24 | $6 << 16 | $7 << 8 | $8)) error=
    set --
    while [ $left -gt 0 ]; do
        digit=128 length=0
        while [ $digit -ge 128 ]; do
            digit=$(($(take 1))) left=$((left - 1))
            length=$((length << 7 | digit & 127))
        done
        string=$(dd bs=1 count=$length 2>/dev/null && echo .) left=$((left - length))
        set -- "$@" "${string%.}"
    done
    output=$(serve "$@" 2>&1 </dev/null) || high=$((high | 128)) error=$(give 5)error
    length=${#output} digits=$((${#output} & 127))
    while length=$((length >> 7)) && [ $length -gt 0 ]; do
        digits="$((length & 127 | 128)) $digits"
    done
    set -- $digits
    length=$((${#error} + $# + ${#output}))
    give $high $id $((length >> 24)) $((length >> 16 & 255)) $((length >> 8 & 255)) $((length & 255))
    printf %s "$error" && give $digits && printf %s "$output"
done
