"""A worker in Python: serves one of the functions below, which its argument names.

Speaks Plain::Fallible with the codec Json. Needs nothing but the standard library.
"""

import json
import os
import statistics
import struct
import sys
import traceback


def summary(numbers):
    print("this goes to standard error")
    return {"mean": statistics.mean(numbers), "median": statistics.median(numbers)}


def words(text):
    return sorted(set(text.split()))


def serve(function):
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # Nothing else may read requests, or write between replies.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    while header := requests.read(8):
        call, length = struct.unpack(">II", header)
        request = requests.read(length)
        try:
            reply = json.dumps(function(json.loads(request)), allow_nan=False).encode()
        except Exception as error:
            call |= 0x8000_0000
            message = f"{type(error).__name__}: {error}\n{traceback.format_exc()}".rstrip()
            reply = octets("error") + octets(message)
        replies.write(struct.pack(">II", call, len(reply)) + reply)
        replies.flush()


def octets(text):
    """The text as an octet string: behind its length in base 128."""
    string = text.encode(errors="replace")
    rest = len(string)
    digits = [rest & 0x7F]
    while rest := rest >> 7:
        digits.insert(0, 0x80 | rest & 0x7F)
    return bytes(digits) + string


serve(globals()[sys.argv[1]])
