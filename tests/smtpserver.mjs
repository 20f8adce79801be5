// npm's smtp-server on loopback: `node smtpserver.mjs MODULES TLS_FOLDER PASSWORD TOKEN`.
//
// The first line on stdout names its ports; then each login, refusal and mail is one line of JSON. Mails are kept by
// nobody else. It ends when its stdin does, so that it never outlives who started it.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [modules, tls, password, token] = process.argv.slice(2);
const { SMTPServer } = createRequire(`${modules}/`)("smtp-server");
const tell = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);
const refusal = (code, text) => Object.assign(new Error(text), { responseCode: code });
const SIZE = 50000;

const certificate = (name) => ({
  key: readFileSync(`${tls}/${name}.key`),
  cert: readFileSync(`${tls}/${name}.crt`),
});

// What happens on every port; `port` is its name.
const handlers = (port) => ({
  onAuth(auth, session, done) {
    const right =
      auth.username === "ann" &&
      (auth.method === "XOAUTH2" ? auth.accessToken === token : auth.password === password);
    tell({ event: "login", port, method: auth.method, secure: session.secure, right });
    if (right) done(null, { user: auth.username });
    else if (auth.method === "XOAUTH2") done(null, { data: { status: "401", schemes: "bearer", scope: "smtp" } });
    else done(refusal(535, "5.7.8 wrong user or password"));
  },
  onRcptTo(address, session, done) {
    if (/^nobody@/.test(address.address)) done(refusal(550, "5.1.1 no such user"));
    else if (/^later@/.test(address.address)) done(refusal(451, "4.3.0 come later"));
    else done();
  },
  onData(stream, session, done) {
    const chunks = [];
    stream.on("data", (chunk) => chunks.push(chunk));
    stream.on("end", () => {
      if (stream.sizeExceeded) {
        done(refusal(552, "5.3.4 too big"));
        return;
      }
      const { mailFrom, rcptTo, dsn } = session.envelope;
      tell({
        event: "mail",
        port,
        secure: session.secure,
        user: session.user ?? null,
        from: mailFrom.address,
        to: rcptTo.map((r) => r.address),
        notify: rcptTo.map((r) => r.dsn?.notify ?? null),
        envid: dsn?.envid ?? null,
        raw: Buffer.concat(chunks).toString("base64"),
      });
      done(null, "2.0.0 taken");
    });
  },
});

const login = { authMethods: ["PLAIN", "LOGIN", "XOAUTH2"], ...certificate("good") };
const open = { authOptional: true, disabledCommands: ["AUTH", "STARTTLS"] };
const ports = {
  relay: open,
  starttls: login,
  tls: { ...login, secure: true },
  "login-plain": { ...login, authMethods: ["PLAIN"] },
  "login-login": { ...login, authMethods: ["LOGIN"] },
  "login-xoauth2": { ...login, authMethods: ["XOAUTH2"] },
  "expired-starttls": { ...login, ...certificate("expired") },
  "expired-tls": { ...login, ...certificate("expired"), secure: true },
  "stranger-starttls": { ...login, ...certificate("stranger") },
  "stranger-tls": { ...login, ...certificate("stranger"), secure: true },
  connections: { ...open, maxClients: 2 },
  recipients: { ...open, maxRecipients: 3 },
  small: { ...open, size: SIZE },
  bare: {
    ...open,
    size: SIZE,
    hideSize: true,
    hidePIPELINING: true,
    hide8BITMIME: true,
    hideSMTPUTF8: true,
    hideDSN: true,
  },
};

const found = {};
for (const [name, options] of Object.entries(ports)) {
  const server = new SMTPServer({
    name: "node.example.test",
    hideDSN: false,
    logger: false,
    disableReverseLookup: true,
    closeTimeout: 100,
    ...handlers(name),
    ...options,
  });
  // A client that leaves because of a certificate is what is tested.
  server.on("error", (error) => tell({ event: "error", port: name, what: String(error.message) }));
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  found[name] = server.server.address().port;
}
tell({ event: "ports", ports: found });
// What it told before it answers a line has been told.
process.stdin.on("data", () => tell({ event: "all" }));
process.stdin.on("end", () => process.exit(0));
