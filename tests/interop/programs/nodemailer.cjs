// Sends what standard input says (JSON: transport, messages) with nodemailer, and prints what
// became of it: one line of JSON for each message, in their order.
'use strict';

const nodemailer = require('nodemailer');
const MailComposer = require('nodemailer/lib/mail-composer');

async function bytesOf(message) {
    if (message.base64 !== undefined) {
        return Buffer.from(message.base64, 'base64');
    }
    return new MailComposer(message.compose).compile().build();
}

async function main() {
    let input = '';
    for await (const part of process.stdin) {
        input += part;
    }
    const { transport, messages, at_once } = JSON.parse(input);
    const mailer = nodemailer.createTransport(transport);
    const send = async message => {
        const raw = await bytesOf(message);
        const content = raw.toString('base64');
        try {
            const sent = await mailer.sendMail({ ...message.options, raw });
            const { accepted, rejected, response } = sent;
            return { ok: true, accepted, rejected, response, content };
        } catch (error) {
            const { message, code, command, responseCode, response } = error;
            return { ok: false, error: message, code, command, responseCode, response, content };
        }
    };
    let results = [];
    if (at_once) {
        results = await Promise.all(messages.map(send));
    } else {
        for (const message of messages) {
            results.push(await send(message));
        }
    }
    for (const result of results) {
        console.log(JSON.stringify(result));
    }
    mailer.close();
}

main();
