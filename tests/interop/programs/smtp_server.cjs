// A next hop made of smtp-server. Standard input says how it is (one line of JSON); it prints its
// port, and a line of JSON for each message that it was given.
'use strict';

const { SMTPServer } = require('smtp-server');
const fs = require('node:fs');
const readline = require('node:readline');

function refusal([code, text]) {
    return Object.assign(new Error(text), { responseCode: code });
}

function start({ options, port, host, pair, login, refused = {}, at_the_end = {} }) {
    const settings = {
        ...options,
        disableReverseLookup: true,
        logger: false,
        onAuth(auth, session, done) {
            const known = login && auth.username === login[0] && auth.password === login[1];
            session.mechanism = auth.method;
            if (!known) {
                return done(refusal([535, 'not known']));
            }
            done(null, { user: auth.username });
        },
        onRcptTo(address, session, done) {
            const reply = refused[address.address];
            done(reply ? refusal(reply) : null);
        },
        onData(stream, session, done) {
            const parts = [];
            stream.on('data', part => parts.push(part));
            stream.on('end', () => {
                const { envelope } = session;
                const to = envelope.rcptTo;
                console.log(JSON.stringify({
                    from: envelope.mailFrom.address,
                    parameters: envelope.mailFrom.args,
                    to: to.map(one => ({ address: one.address, parameters: one.args })),
                    body: envelope.bodyType,
                    utf8: envelope.smtpUtf8,
                    require_tls: envelope.requireTLS,
                    dsn: envelope.dsn,
                    user: session.user,
                    mechanism: session.mechanism,
                    hello: session.openingCommand,
                    tls: session.tlsOptions && session.tlsOptions.standardName,
                    secure: session.secure,
                    content: Buffer.concat(parts).toString('base64')
                }));
                if (stream.sizeExceeded) {
                    return done(refusal([552, 'too large']));
                }
                if (options.lmtp) {
                    const replies = to.map(one => at_the_end[one.address]);
                    return done(null, replies.map(reply => (reply ? refusal(reply) : 'kept')));
                }
                done(null, 'kept');
            });
        }
    };
    if (pair) {
        settings.cert = fs.readFileSync(pair[0]);
        settings.key = fs.readFileSync(pair[1]);
    }
    const server = new SMTPServer(settings);
    server.on('error', error => console.error(error.message));
    server.listen(port || 0, host || '127.0.0.1', () => {
        console.log(JSON.stringify({ port: server.server.address().port }));
    });
}

const lines = readline.createInterface({ input: process.stdin });
lines.once('line', line => start(JSON.parse(line)));
// The test is over.
lines.once('close', () => process.exit(0));
