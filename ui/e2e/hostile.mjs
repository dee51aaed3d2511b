// What a hostile machine and a hostile page can do, in a real browser that is signed
// in at a real node. It prints what it saw as one JSON document; who has started it
// judges.
//
//   LPMOS_URL=$(lpmos login-link) node hostile.mjs machines '#/' '#/m/ID' …
//   LPMOS_URL=$(lpmos login-link) node hostile.mjs pages POST /api/v1/tasks/ID/cancel
import http from 'node:http';
import { launch } from './browser.mjs';

const { LPMOS_URL: url, LPMOS_WANT: want = '' } = process.env;
const [mode, ...args] = process.argv.slice(2);
const base = new URL('/', url).href;
const port = new URL(url).port;

// evil.example is an attacker's name; its owner has made it lead here.
const browser = await launch(['--host-resolver-rules=MAP evil.example 127.0.0.1']);
const context = await browser.newContext();
const page = await context.newPage();
page.setDefaultTimeout(60_000);

/** What a machine said is on the page: does any of it run? */
async function machines(hashes) {
  const saw = { violations: [], errors: [], dialogs: [], foreign: [], shown: {}, ran: false, images: 0 };
  await page.exposeFunction('violated', (what) => saw.violations.push(what));
  await page.addInitScript(() => addEventListener('securitypolicyviolation', (e) => window.violated(`${e.violatedDirective} ${e.blockedURI} ${e.sourceFile}`)));
  page.on('pageerror', (e) => saw.errors.push(String(e)));
  page.on('dialog', (d) => { saw.dialogs.push(d.message()); d.dismiss(); });
  page.on('request', (q) => {
    const at = new URL(q.url());
    if (at.origin !== new URL(base).origin || /\/(x|api\/v1\/x)$/.test(at.pathname)) saw.foreign.push(q.url());
  });
  await page.goto(url);
  await live();
  for (const hash of hashes) {
    await page.goto(base + hash);
    await live();
    await page.waitForFunction((w) => document.body.textContent.includes(w), want).then(() => { saw.shown[hash] = true; }, () => { saw.shown[hash] = false; });
    saw.images += await page.$$eval('img, main script, main svg, main iframe, dialog script', (l) => l.length);
    saw.ran ||= await page.evaluate(() => window.ran !== undefined);
    // A link a machine has made up leads nowhere but to http.
    saw.foreign.push(...await page.$$eval('a[href]', (l) => l.map((a) => a.protocol).filter((p) => !/^https?:$/.test(p))));
  }
  return saw;
}

/** Pages of others, in the same browser: what do they get done, and what do they read? */
async function pages([method, path]) {
  await page.goto(url);
  await live();
  const server = http.createServer((q, s) => { s.writeHead(200, { 'Content-Type': 'text/html' }); s.end('<!doctype html><title>evil</title><p>evil'); });
  await new Promise((ok) => server.listen(0, '127.0.0.1', ok));
  const saw = {};
  for (const host of ['127.0.0.1', 'localhost', 'evil.example']) {
    const evil = await context.newPage();
    await evil.goto(`http://${host}:${server.address().port}/`);
    saw[host] = await evil.evaluate(async ([target, m, p]) => {
      const out = { socket: 'opened nothing', read: 'nothing' };
      // Without asking first: what a form could send.
      for (const body of ['', '{"x":1}']) {
        for (const type of ['text/plain', 'application/x-www-form-urlencoded']) {
          await fetch(target + p.slice(1), { method: m === 'GET' ? 'POST' : m, mode: 'no-cors', credentials: 'include', headers: body ? { 'Content-Type': type } : {}, body: body || undefined }).catch(() => {});
        }
      }
      await fetch(target + 'api/v1/tasks', { credentials: 'include' }).then(async (r) => { out.read = (await r.text()).slice(0, 80); }, () => {});
      await new Promise((done) => {
        const ws = new WebSocket(target.replace(/^http/, 'ws') + 'ws');
        ws.onmessage = (e) => { out.socket = String(e.data).slice(0, 80); done(); };
        ws.onopen = () => { out.socket = 'opened'; };
        ws.onclose = done;
        setTimeout(done, 5000);
      });
      const frame = document.createElement('iframe');
      frame.src = target;
      document.body.append(frame);
      await new Promise((done) => { frame.onload = done; setTimeout(done, 5000); });
      return out;
    }, [base, method, path]);
    // A form that a click could send.
    await evil.evaluate(([target, p]) => {
      const f = document.createElement('form');
      f.method = 'post'; f.enctype = 'text/plain'; f.action = target + p.slice(1);
      const i = document.createElement('input');
      i.name = '{"x":"'; i.value = '"}';
      f.append(i); document.body.append(f); f.submit();
    }, [base, path]);
    await evil.waitForLoadState();
    await evil.close();
  }
  // The attacker's name leads to this very node now: its page would be of that origin.
  const rebound = await context.newPage();
  const res = await rebound.goto(`http://evil.example:${port}/`);
  saw.rebound = { status: res.status(), api: await rebound.evaluate(() => fetch('/api/v1/session').then((r) => r.status, () => 0)) };
  server.closeAllConnections();
  server.close();
  return saw;
}

const live = () => page.waitForSelector('body[data-link=live]', { state: 'attached' });

try {
  console.log(JSON.stringify(await { machines, pages }[mode](args)));
} finally {
  await browser.close();
}
