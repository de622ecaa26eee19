# Sends what standard input says (JSON: port, messages, each of them in files) with Net::SMTP, and
# prints what became of it: one line of JSON for each message.
use strict;
use warnings;
use JSON::PP;
use Net::SMTP;

my $json = JSON::PP->new->utf8->canonical;
my $job = $json->decode(join '', <STDIN>);
my %way = (Port => $job->{port}, Hello => 'client.test', Timeout => 30);
my $client = Net::SMTP->new('127.0.0.1', %way) or die "no connection: $@";

sub bytes_of {
    my ($path) = @_;
    open my $file, '<:raw', $path or die "$path: $!";
    local $/ = undef;
    return scalar <$file>;
}

# The recipients that were taken.
sub post {
    my ($message) = @_;
    my @content = map { bytes_of($_) } @{ $message->{chunks} };
    $client->mail($message->{from}, %{ $message->{mail} }) or return;
    my @taken = $client->recipient(@{ $message->{to} }, { SkipBad => 1, %{ $message->{rcpt} } });
    return @taken unless @taken;
    if (($message->{mail}{Bits} // '') eq 'binary') {
        my $last = pop @content;
        $client->bdat($_) or return @taken for @content;
        $client->bdatlast($last);
    } else {
        $client->data and $client->datasend($_) for @content;
        $client->dataend;
    }
    return @taken;
}

for my $message (@{ $job->{messages} }) {
    my @taken = post($message);
    my $came = { code => $client->code, said => $client->message, taken => \@taken };
    print $json->encode($came), "\n";
    $client->reset;
}
$client->quit;
