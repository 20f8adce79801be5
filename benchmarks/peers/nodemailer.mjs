// nodemailer with a pool: `node nodemailer.mjs JOB`, the same job as drive.py, and the same figures.
// The pool is kept full: twice as many mails are under way as there are connections.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const nodemailer = createRequire(`${job.modules}/`)("nodemailer");
const rows = JSON.parse(readFileSync(job.rows, "utf8"));
const attachments = job.attachment
  ? [{ filename: "report.bin", content: readFileSync(job.attachment) }]
  : undefined;

const escapes = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;" };
const escaped = (value) => String(value).replace(/[&<>"']/g, (c) => escapes[c]);
const fill = (source, row, safe = String) => source.replace(/{(\w+)}/g, (_, name) => safe(row[name]));

async function send(mails, connections) {
  const pool = nodemailer.createTransport({
    pool: true,
    host: "127.0.0.1",
    port: job.port,
    secure: false,
    ignoreTLS: true,
    name: "localhost",
    maxConnections: connections,
    maxMessages: Infinity,
  });
  let next = 0;
  let sent = 0;
  const worker = async () => {
    while (next < mails.length) {
      const row = mails[next++];
      const answer = await pool.sendMail({
        from: job.sender,
        to: row.email,
        subject: fill(job.subject, row),
        text: fill(job.text, row),
        html: fill(job.html, row, escaped),
        attachments,
      });
      sent += answer.accepted.length;
    }
  };
  await Promise.all(Array.from({ length: 2 * connections }, worker));
  pool.close();
  return sent;
}

await send(rows.slice(0, job.warm_up), 1);
const cpu = process.cpuUsage();
const start = performance.now();
const sent = await send(rows.slice(job.warm_up), job.workers);
const seconds = (performance.now() - start) / 1000;
const used = process.cpuUsage(cpu);
console.log(JSON.stringify({ sent, seconds, cpu: (used.user + used.system) / 1e6 }));
