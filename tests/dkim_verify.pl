# Verifies the DKIM signatures of the mail on its input with Mail::DKIM, and prints what came of each.
# Its arguments are the names of TXT records and their texts, in turn: no DNS is asked.
use strict;
use warnings;
use Mail::DKIM::Verifier;
use Mail::DKIM::DNS;
use Net::DNS;

package Records;

sub send {
    my ($self, $name) = @_;
    my $packet = Net::DNS::Packet->new($name, 'TXT');
    if (my $text = $self->{$name}) {
        my @pieces = unpack '(A250)*', $text;
        $packet->push(answer => Net::DNS::RR->new(name => $name, type => 'TXT', txtdata => \@pieces));
    }
    return $packet;
}
sub errorstring { 'NOERROR' }

package main;

Mail::DKIM::DNS::resolver(bless {@ARGV}, 'Records');
my $verifier = Mail::DKIM::Verifier->new;
binmode STDIN;
local $/;
$verifier->PRINT(scalar <STDIN>);
$verifier->CLOSE;
print join(' ', $_->algorithm, $_->domain, $_->result_detail), "\n" for $verifier->signatures;
