// Coming in, in a real Chromium at a real node: the setup code, a password, a login
// link, and being sent away.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { launch } from './browser.mjs';

const axe = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const program = fileURLToPath(new URL('../../bin/lpmos', import.meta.url));
let browser, node, dir, base, code;

/** The command line on the node's own host. */
const lpmos = (...args) => execFileSync(program, args, { env: { ...process.env, LPMOS_DATA_DIR: dir }, encoding: 'utf8' }).trim();

before(async () => {
  browser = await launch();
  dir = await mkdtemp(path.join(tmpdir(), 'lpmos-door-'));
  node = spawn(program, ['up', '--data-dir', dir, '--listen', '127.0.0.1:0', '--cluster-listen', '127.0.0.1:0'], { stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  await new Promise((ok, no) => {
    node.on('exit', () => no(new Error(said)));
    node.stderr.on('data', (b) => { said += b; if (said.includes('node is ready')) ok(); });
  });
  base = /dashboard=(\S+)/.exec(said)[1] + '/';
  code = /setup code +([0-9A-Z-]{23})/.exec(said)[1];
  assert.ok(!said.includes('#login='), 'a link that signs in is not written into a log');
});
after(async () => {
  await browser.close();
  node.kill();
  await rm(dir, { recursive: true, force: true });
});

/** A browser of its own, whose console has to stay clean but for refusals. */
async function visit(t, url) {
  const context = await browser.newContext();
  const page = await context.newPage();
  const errors = [];
  page.on('pageerror', (e) => errors.push(String(e)));
  page.on('console', (m) => { if (m.type() === 'error' && !/WebSocket|status of 4/.test(m.text())) errors.push(m.text()); });
  t.after(async () => {
    await context.close();
    assert.deepEqual(errors, []);
  });
  await page.goto(url);
  return page;
}
const live = (page) => page.waitForSelector('body[data-link=live]', { state: 'attached' });
const asked = (page) => page.waitForSelector('#door');
async function signIn(page, name, password) {
  await page.fill('#d-name', name);
  await page.fill('#d-password', password);
  await page.click('#door button');
}

/** Everybody can use what is on the page. */
async function usable(page) {
  await page.evaluate(axe);
  const found = await page.evaluate(() => window.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }));
  assert.deepEqual(found.violations.map((v) => `${v.id}: ${v.nodes[0].html}`), []);
}

test('the setup code makes the first administrator, who lets others in', async (t) => {
  const page = await visit(t, base);
  await asked(page);
  await usable(page);
  await page.fill('#d-code', '00000-00000-00000-00000');
  await signIn(page, 'anna', 'correct horse battery');
  await page.waitForSelector('#door .note.bad');
  await page.fill('#d-code', code.toLowerCase());
  await page.click('#door button');
  await live(page);
  const [cookie] = await page.context().cookies();
  assert.ok(cookie.httpOnly && cookie.sameSite === 'Strict', JSON.stringify(cookie));
  assert.equal(await page.evaluate(() => document.cookie), '', 'no script reads it');

  await page.click('#who');
  await page.click('text=Add a user');
  await page.fill('#u-name', 'vera');
  await page.selectOption('#u-role', 'viewer');
  await page.fill('#u-password', 'short');
  await page.click('[data-confirm=access]');
  await page.waitForSelector('dialog .note.bad');
  await page.fill('#u-password', 'another horse battery');
  await page.click('[data-confirm=access]');
  await page.waitForSelector('td:text-is("vera")');
  await page.click('text=Make an API token');
  await page.fill('#t-name', 'ci');
  await page.click('[data-confirm=access]');
  assert.match(await page.textContent('#t-key'), /^lpat_[0-9a-f]{16}_[0-9a-f]{32}$/);
  await page.click('dialog:has(#t-key) footer button');
  await page.waitForSelector('td:text-is("ci")');
  await usable(page);
  await page.click('[data-act=sign-out]');
  await asked(page);
  assert.ok(!(await page.textContent('body')).includes('vera'), 'nothing of what was shown is left');
});

test('who is disabled is sent away at once, whatever the page shows', async (t) => {
  const page = await visit(t, base);
  await asked(page);
  await signIn(page, 'vera', 'wrong horse battery');
  await page.waitForSelector('#door .note.bad');
  await signIn(page, 'vera', 'another horse battery');
  await live(page);
  await page.waitForFunction(() => document.querySelector('#new-task').disabled);
  assert.match(await page.getAttribute('#new-task', 'title'), /vera is viewer, and this needs operator/);
  const began = Date.now();
  lpmos('user', 'disable', 'vera');
  await asked(page);
  t.diagnostic(`asked again ${Date.now() - began} ms after the command was begun`);
  await signIn(page, 'vera', 'another horse battery');
  await page.waitForSelector('#door .note.bad');
});

test('a login link signs in once', async (t) => {
  const link = lpmos('login-link');
  const page = await visit(t, link);
  await live(page);
  assert.ok(!page.url().includes('login'), page.url());
  assert.equal(await page.textContent('#who'), 'local');
  const other = await visit(t, link);
  await asked(other);
  assert.match(await other.textContent('#door'), /has been used or has expired/);
  await other.goto(lpmos('login-link')); // in the tab where the page is open
  await live(other);
});
