#!/usr/bin/perl
# A worker in Perl. Speaks Plain::Fallible; requests and replies are lists of octet strings, of which
# the first in a request names the function. Needs nothing but Perl.

use strict;
use warnings;

my %functions = (
    sort   => sub { sort @_ },
    divide => sub {
        my ($dividend, $divisor) = @_;
        print "this goes to standard error\n";
        $dividend / $divisor;
    },
);

open my $requests, '<&', \*STDIN or die "standard input: $!";
open my $replies, '>&', \*STDOUT or die "standard output: $!";
binmode $_ for $requests, $replies;
$replies->autoflush;
# Nothing else may read requests, or write between replies.
open STDIN, '<', '/dev/null' or die "/dev/null: $!";
open STDOUT, '>&', \*STDERR or die "standard error: $!";

while (read($requests, my $header, 8)) {
    my ($id, $length) = unpack 'NN', $header;
    read($requests, my $request, $length);
    my @reply = eval {
        my ($name, @arguments) = unpack '(w/a*)*', $request;
        my $function = $functions{$name} or die "there is no function `$name`\n";
        $function->(@arguments);
    };
    if (my $error = $@) {
        chomp $error;
        $id |= 0x8000_0000;
        @reply = ('error', $error);
    }
    print $replies pack 'NN/a*', $id, pack '(w/a*)*', @reply;
}
