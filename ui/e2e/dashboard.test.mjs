// The dashboard in a real Chromium over a fake node. Nothing here waits for a
// clock where it can wait for a condition; figures that swing with the load of
// the machine are printed, those that do not are demanded.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';
import { launch } from './browser.mjs';
import { cluster } from './fake-fleet.mjs';
import { FakeNode } from './fake-node.mjs';

const axe = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
let browser;
before(async () => { browser = await launch(); });
after(async () => { await browser.close(); });

/** Opens the dashboard over a fake node of its own. */
async function visit(t, { machines = 24, hash = '', scheme = 'light', width = 1280, height = 800, setup = () => {} } = {}) {
  const node = new FakeNode({ machines });
  setup(node.fleet);
  const url = await node.listen();
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: scheme, bypassCSP: false });
  const page = await context.newPage();
  const errors = [];
  page.on('pageerror', (e) => errors.push(String(e)));
  page.on('console', (m) => { if (m.type() === 'error' && !m.text().includes('WebSocket') && !m.text().includes('status of 4')) errors.push(m.text()); });
  t.after(async () => {
    await context.close();
    await node.stop();
    assert.deepEqual(errors, [], 'the console stays clean');
  });
  await page.goto(url + hash);
  await live(page);
  return { node, page, url };
}
const live = (page) => page.waitForSelector('body[data-link=live]', { state: 'attached' });
const row = (id) => `tr[data-key="m/${id}"]`;
const taskIn = (node, status) => [...node.fleet.tasks.values()].find((t) => t.status === status && !node.fleet.machines.get(t.machine_id)?.lost);
const machineIn = (node, phase) => [...node.fleet.machines.values()].find((m) => m.phase === phase);

/** A machine that no agent has reported, and that stands. */
const stranger = (node) => ({ mac: '52:54:00:ff:ff:01', address: '10.77.0.180', at: new Date().toISOString(), text: 'fetched snponly.efi over TFTP (173792 bytes)', node: 'n2', timeline: node.fleet.machines.get('m-000004').timeline, stall: [...node.fleet.machines.values()].find((m) => m.stall)?.stall });

test('the first load is small and asks no other host', async (t) => {
  const node = new FakeNode({ machines: 0 });
  const url = await node.listen();
  const page = await browser.newPage();
  t.after(async () => { await page.close(); await node.stop(); });
  const cdp = await page.context().newCDPSession(page);
  let bytes = 0;
  const urls = [];
  await cdp.send('Network.enable');
  cdp.on('Network.loadingFinished', (e) => { bytes += e.encodedDataLength; });
  page.on('request', (q) => urls.push(q.url()));
  await page.goto(url, { waitUntil: 'networkidle' });
  await live(page);
  t.diagnostic(`${urls.length} requests, ${bytes} bytes with headers`);
  assert.ok(urls.length <= 6, urls.join('\n'));
  assert.deepEqual(node.requests.filter((q) => q.includes('ico')), [], 'the picture of the tab comes later');
  assert.ok(bytes <= 60_000, `${bytes} bytes`);
  assert.ok(urls.every((u) => u.startsWith(url)), urls.join('\n'));
});

test('bars move without a reload, by the event only', async (t) => {
  const { node, page } = await visit(t);
  const task = taskIn(node, 'installing');
  await page.evaluate(() => { window.mark = 1; });
  const bar = `${row(task.machine_id)} .track`;
  await page.fill('#q', node.fleet.machines.get(task.machine_id).ids.serial);
  for (const percent of [31, 47, 63, 88, 97]) {
    const item = node.fleet.progress(task, percent);
    for (const v of node.viewers) v.send({ type: 'progress_batch', time: new Date().toISOString(), items: [item] });
    await page.waitForSelector(`${bar}[aria-valuenow="${percent}"]`);
    assert.equal(await page.$eval(`${bar} i`, (el) => el.style.transform), `scaleX(${percent / 100})`);
  }
  node.fleet.move(task, 'completed', { phase_text: 'came up 12:00:00 as web', came_up: { at: new Date().toISOString() } });
  await page.waitForSelector(`${row(task.machine_id)}[data-phase=installed]`);
  assert.equal(await page.evaluate(() => window.mark), 1, 'the page was never loaded again');
});

test('a reconnect keeps search, scroll, focus and typed text', async (t) => {
  const { node, page } = await visit(t, { machines: 300 });
  await page.fill('#q', 'node');
  await page.keyboard.press('ArrowDown');
  for (let i = 0; i < 60; i++) await page.keyboard.press('j');
  const where = () => page.evaluate(() => ({ y: scrollY, focus: document.activeElement.closest('tr')?.dataset.key, hash: location.hash }));
  const there = await where();
  assert.ok(there.y > 0 && there.focus, JSON.stringify(there));
  await page.click('#new-task');
  await page.fill('#f-target_mac', '52:54:00:aa');
  const again = page.waitForSelector('body:not([data-link=live])', { state: 'attached' });
  node.refuse = true;
  node.cut();
  await again;
  assert.ok(await page.$eval('#new-task', (b) => b.disabled), 'what needs the node is switched off');
  node.fleet.addMachine(900, 'installed');
  node.refuse = false;
  await live(page);
  assert.ok(node.lastSince > 0, 'it asked for what it missed');
  assert.equal(await page.inputValue('#f-target_mac'), '52:54:00:aa');
  await page.keyboard.press('Escape');
  await page.waitForFunction(() => document.querySelector('#chips [data-filter=""] b').textContent === '301');
  await page.focus(`tr[data-key="${there.focus}"] a`);
  const back = await where();
  assert.deepEqual({ ...back, y: 0 }, { ...there, y: 0 });
  assert.ok(Math.abs(back.y - there.y) < 40, `${back.y} was ${there.y}`);
});

test('approving names every disk and wants the serial where something would be lost', async (t) => {
  const { node, page } = await visit(t, { machines: 12 });
  const m = machineIn(node, 'discovered');
  m.inventory.disks[0].contents = { table: 'gpt', os: 'Debian 12', partitions: [{ number: 1, start_bytes: 1048576, size_bytes: 8e9, filesystem: 'ext4', fs_label: 'root' }] };
  await page.click(`${row(m.id)} button`);
  const erase = page.locator('button[data-confirm=erase]');
  await erase.waitFor();
  assert.equal(await erase.textContent(), `Erase 8.59 GB QEMU HARDDISK LAB-7-D1 and install debian-12`);
  const dies = await page.textContent('.disk.dies'), stays = await page.textContent('.disk.stays');
  for (const want of ['Will be erased', '8.59 GB', 'QEMU HARDDISK', 'LAB-7-D1', 'Debian 12', 'ext4', 'root']) assert.ok(dies.includes(want), `${want} in ${dies}`);
  for (const want of ['Stays as it is', 'LAB-7-D2', 'keep-me']) assert.ok(stays.includes(want), `${want} in ${stays}`);
  assert.ok(await erase.isDisabled());
  await page.fill('#proof', '7-D2');
  assert.ok(await erase.isDisabled(), 'another disk\'s serial opens nothing');
  await page.fill('#proof', '7-d1');
  await page.selectOption('#f-os_type', 'tiny');
  await page.waitForFunction(() => document.querySelector('[data-confirm=erase]').textContent.endsWith('install tiny'));
  assert.ok(await erase.isDisabled(), 'another plan wants its own proof');
  await page.fill('#proof', '7-D1');
  await erase.click();
  await page.waitForSelector('dialog', { state: 'detached' });
  const made = [...node.fleet.tasks.values()].at(-1);
  assert.equal(made.machine_id, m.id);
  assert.equal(made.status, 'approved');
  await page.waitForSelector(`${row(m.id)}[data-phase=queued]`);
});

test('a machine is booted once into what is chosen, and what erases wants the serial', async (t) => {
  const { node, page } = await visit(t, { machines: 12 });
  const m = machineIn(node, 'discovered');
  m.inventory.disks[0].contents = { table: 'gpt', os: 'Debian 12', partitions: [] };
  node.fleet.boot(m, undefined);
  await page.goto(`${page.url().split('#')[0]}#/m/${m.id}`);
  await page.click('#page [data-act=boot]');
  const go = page.locator('button[data-confirm=boot]');
  await page.selectOption('#f-profile', 'rescue');
  await page.waitForSelector('text=It erases nothing by itself');
  assert.equal(await go.textContent(), 'Boot once');
  await page.selectOption('#f-profile', 'd-i');
  await page.waitForSelector('.disk.dies');
  assert.equal(await go.textContent(), 'Let d-i erase 8.59 GB QEMU HARDDISK LAB-7-D1');
  assert.ok((await page.textContent('dialog')).includes('LPMOS does not watch it'));
  assert.ok(await go.isDisabled());
  await page.fill('#proof', '7-D2');
  assert.ok(await go.isDisabled(), 'another disk\'s serial opens nothing');
  m.inventory.disks[0].contents.os = 'Windows'; // and nobody has told the page
  await page.fill('#proof', '7-D1');
  await go.click();
  await page.waitForSelector('text=what lies on the disk has changed');
  assert.equal(m.next_boot, undefined);
  await page.fill('#proof', '7-D1');
  await go.click();
  await page.waitForSelector('dialog', { state: 'detached' });
  assert.equal(m.next_boot.profile, 'd-i');
  await page.waitForSelector('text=It may erase disk LAB-7-D1');
  await page.click('#page [data-act=cancel_boot]');
  await page.click('dialog [data-confirm=cancel_boot]');
  await page.waitForSelector('#page [data-act=boot]');
  assert.equal(m.next_boot, undefined);
});

test('a blank disk is approved with one click', async (t) => {
  const { node, page } = await visit(t, { machines: 12 });
  const m = machineIn(node, 'waiting');
  await page.focus(`${row(m.id)} a`);
  await page.keyboard.press('a');
  await page.waitForSelector('dialog [data-confirm=erase]:enabled:focus');
  await page.keyboard.press('Enter');
  await page.waitForSelector(`${row(m.id)}[data-phase=queued]`);
});

test('a plan that changed is shown and has to be read again', async (t) => {
  const { node, page } = await visit(t, { machines: 12 });
  const m = machineIn(node, 'waiting');
  const task = node.fleet.tasks.get(m.task_id);
  await page.click(`${row(m.id)} button`);
  await page.waitForSelector('[data-confirm=erase]:enabled');
  // The node has another plan than the page was told, as when an event is on its way.
  task.plan = structuredClone(task.plan);
  task.plan.erase.contents = { table: 'mbr', partitions: [{ number: 1, start_bytes: 1048576, size_bytes: 1e12, filesystem: 'ntfs', fs_label: 'PAYROLL' }] };
  task.plan_hash = 'f'.repeat(64);
  task.confirm = task.plan.erase.serial;
  await page.click('[data-confirm=erase]');
  await page.waitForSelector('text=what lies on disk LAB-3-D1 has changed');
  assert.equal(task.status, 'pending_approval');
  assert.ok((await page.textContent('.disk.dies')).includes('PAYROLL'));
  assert.ok(await page.isDisabled('[data-confirm=erase]'));
  await page.fill('#proof', task.plan.erase.serial.slice(-4));
  await page.click('[data-confirm=erase]');
  await page.waitForSelector(`${row(m.id)}[data-phase=queued]`);
});

test('a refusal is shown at its field', async (t) => {
  const { page } = await visit(t);
  await page.click('#new-task');
  await page.fill('#f-target_mac', '52:54:00:12:34:56');
  await page.fill('[id="f-network_config.hostname"]', 'not a name');
  await page.click('text=Create task');
  await page.waitForSelector('[id="f-network_config.hostname"][aria-invalid=true]');
  assert.ok((await page.textContent('[id="w-network_config.hostname"]')).includes('letters, digits and dashes'));
  await page.fill('[id="f-network_config.hostname"]', 'good');
  await page.click('text=Create task');
  await page.waitForSelector('tr[data-key^="t/"] >> text=good');
});

test('every action asks first and says what it does', async (t) => {
  const { node, page } = await visit(t, { machines: 12 });
  const m = machineIn(node, 'waiting');
  await page.goto(`${page.url().split('#')[0]}#/m/${m.id}`);
  await page.click('#page [data-act=reject]');
  await page.click('dialog [data-confirm=reject]');
  await page.waitForSelector('#page [data-act=retry]');
  await page.click('#page [data-act=retry]');
  await page.click('dialog [data-confirm=retry]');
  await page.click('#page [data-act=cancel]');
  await page.click('dialog [data-confirm=cancel]');
  await page.click('#page [data-act=delete]');
  await page.click('dialog [data-confirm=delete]');
  await page.click('#page [data-act=forget]');
  await page.click('dialog [data-confirm=forget]');
  await page.waitForSelector('text=Not here any more');
  assert.ok(!node.fleet.machines.has(m.id));
});

test('a machine that stands says why and what to do, and goes on by itself', async (t) => {
  const { node, page } = await visit(t);
  const m = machineIn(node, 'waiting');
  const badge = page.locator(`${row(m.id)} .stalled`);
  assert.equal(await badge.isVisible(), false);
  node.fleet.stall(m.id, true);
  await badge.waitFor();
  assert.equal(await badge.textContent(), 'stalled', 'a word, not a colour alone');
  assert.equal(await page.textContent(`${row(m.id)} .c-doing span`), m.stall.text);
  assert.equal(await page.textContent(`${row(m.id)} .c-state span`), 'waiting', 'its state is what it was');
  await page.fill('#q', 'is:stalled');
  await page.waitForFunction(() => document.querySelectorAll('tr[data-key]').length === 1);
  await page.click(`${row(m.id)} .c-name a`);
  const note = page.locator('.note.stall');
  await note.waitFor();
  const said = await note.textContent();
  assert.ok(said.includes(m.stall.text) && said.includes(m.stall.hint), said);
  // The newest boot alone is the line; what stands is its last stop.
  await page.waitForSelector('.way-line li[data-milestone=stalled]');
  const stops = await page.$$eval('.way-line li', (l) => l.map((x) => x.dataset.milestone));
  assert.equal(stops.at(-1), 'stalled');
  assert.equal(stops.filter((x) => x === 'asks').length, 1);
  node.fleet.stall(m.id, null);
  await note.waitFor({ state: 'detached' });
  await page.waitForSelector('.way-line li[data-milestone=stalled]', { state: 'detached' });
});

test('the timeline measures each milestone and marks the slowest', async (t) => {
  const { node, page, url } = await visit(t);
  const m = machineIn(node, 'installed');
  await page.goto(`${url}#/m/${m.id}`);
  await page.waitForSelector('.way-line');
  const slowest = page.locator('.way-line li[data-slowest]');
  assert.equal(await slowest.count(), 1);
  assert.match(await slowest.textContent(), /agent reported15 sslowestthe agent reported from/);
  const waited = await page.textContent('.way-line li[data-milestone=approved]');
  assert.ok(waited.includes('38 s') && waited.includes('a person’s time'), waited);
  const bars = await page.$$eval('.way-line .span > i', (l) => l.map((b) => b.getBoundingClientRect().width));
  assert.ok(Math.max(...bars) > 50 && Math.min(...bars) < 5, `bars of ${bars}`);
  await page.click('summary:text("Everything that was seen")');
  await page.waitForSelector('text=asked for an IPv6 router');
  await page.click('summary:text("Its boots before (1)")');
});

test('machines nobody knows are on the network page, with why they stand', async (t) => {
  const { node, page, url } = await visit(t, { setup: (fleet) => fleet.stall('m-000004', true) });
  node.strangers = [stranger(node)];
  await page.goto(`${url}#/network`);
  const line = page.locator('tr[data-mac="52:54:00:ff:ff:01"]');
  await line.waitFor();
  const said = await line.textContent();
  for (const want of ['10.77.0.180', 'stalled', 'did Secure Boot refuse it?', 'switch Secure Boot off', '(n2)']) assert.ok(said.includes(want), `${want} in ${said}`);
  assert.equal(await page.getAttribute('.tall tbody tr:first-child', 'data-mac'), node.fleet.machines.get('m-000004').ids.macs[0], 'who stands comes first');
  await page.click('tr[data-mac="52:54:00:ff:ff:01"] a');
  await page.waitForSelector('h1:has-text("52:54:00:ff:ff:01")');
  await page.waitForSelector('.note.stall');
  await page.waitForSelector('.way-line li[data-milestone=loader]');
  // Once its agent reports it is a machine like any other.
  Object.assign(node.strangers[0], { machine_id: 'm-000005' });
  const frame = { type: 'sighting', time: new Date().toISOString(), at: new Date().toISOString(), mac: '52:54:00:ff:ff:01', kind: 'http', text: 'fetched initrd' };
  for (const v of node.viewers) v.send(frame);
  await page.waitForFunction(() => location.hash === '#/m/m-000005');
});

test('what machines say is text and never markup', async (t) => {
  const evil = '<img src=x onerror="window.ran=1"><script>window.ran=1</script>"\'`${7*7}';
  const { node, page } = await visit(t, { machines: 12, setup: (fleet) => {
    for (const m of fleet.machines.values()) {
      Object.assign(m, { name: evil, phase_text: evil });
      m.ids.serial = evil;
      m.inventory.system.product = evil;
      for (const d of m.inventory.disks) Object.assign(d, { model: evil, contents: { table: 'gpt', os: evil, partitions: [{ number: 1, start_bytes: 1e6, size_bytes: 8e9, fs_label: evil, filesystem: evil }] } });
      m.timeline = [{ at: new Date().toISOString(), source: evil, text: evil, milestone: 'asks', begins: true, node: evil }, { at: new Date().toISOString(), source: evil, text: evil, step: 'stalled', stall: evil, hint: evil }];
      m.stall = { id: evil, text: evil, hint: evil, node: evil, since: new Date().toISOString(), at: new Date().toISOString() };
    }
    for (const m of fleet.cluster.members) Object.assign(m, { name: evil, region: evil, version: evil, address: evil, dashboard: `javascript:${evil}`, warnings: [evil] });
    fleet.cluster.problem = evil;
    fleet.examination = { verdict: 'fail', checks: [{ id: evil, of: evil, depth: 0, verdict: 'fail', reason: evil, fix: evil }, { id: 'x', depth: 9, verdict: evil, reason: evil }] };
    fleet.audit = [{ index: 1, at: new Date().toISOString(), by: evil, what: evil }];
    for (const x of fleet.tasks.values()) Object.assign(x, { logs: [{ at: new Date().toISOString(), text: evil }], error: { code: evil, message: evil, details: evil }, ...fleet.planFor(x) });
  } });
  assert.equal(await page.textContent(`${row('m-000004')} .c-name a`), evil);
  const dialogs = [];
  page.on('dialog', (d) => { dialogs.push(d.message()); d.dismiss(); });
  const base = page.url().split('#')[0];
  for (const hash of ['#/m/m-000004', '#/m/m-000009', '#/network', '#/doctor', '#/images', '#/c', '#/a', '#/']) {
    await page.goto(base + hash);
    await live(page);
    await page.waitForFunction((h) => h === '#/images' || document.body.textContent.includes('<img src=x'), hash);
  }
  await page.click(`${row('m-000004')} button`);
  await page.waitForSelector('.disk.dies');
  assert.ok((await page.textContent('.disk.dies')).includes(evil));
  assert.equal(await page.evaluate(() => window.ran), undefined);
  assert.equal(await page.$$eval('img, main script, dialog script', (l) => l.length), 0);
  assert.deepEqual(dialogs, []);
  assert.ok(node.requests.every((q) => !q.includes('/x')), 'no markup fetched anything');
});

test('1,000 machines at 10 updates a second stay small and fresh', async (t) => {
  const { node, page } = await visit(t, { machines: 1000, height: 1200, setup: (fleet) => {
    for (const x of fleet.tasks.values()) if (x.status !== 'installing') fleet.move(x, 'installing');
    for (const m of fleet.machines.values()) m.lost = false;
  } });
  node.forever = true;
  await page.click('[data-filter="state:installing"]');
  await page.evaluate(() => {
    // How old a figure is when its bar is touched: the node put the time into the text.
    window.ages = [];
    new MutationObserver((list) => {
      for (const m of list) {
        const at = /^at (\d+)/.exec(m.target.textContent);
        if (at) window.ages.push(Date.now() - Number(at[1]));
      }
    }).observe(document.querySelector('tbody'), { subtree: true, childList: true, characterData: true });
  });
  // Every update of every machine goes to the browser, as a node without pacing would send it.
  let percent = 20, sent = 0;
  const beat = setInterval(() => {
    percent = percent >= 88 ? 20 : percent + 0.05;
    const now = Date.now();
    const items = node.fleet.installing().map((x) => ({ ...node.fleet.progress(x, percent), phase_text: `at ${now}` }));
    sent += items.length;
    for (const v of node.viewers) v.send({ type: 'progress_batch', time: new Date().toISOString(), items });
  }, 100);
  t.after(() => clearInterval(beat));
  const cdp = await page.context().newCDPSession(page);
  await cdp.send('Performance.enable');
  const metric = async () => Object.fromEntries((await cdp.send('Performance.getMetrics')).metrics.map((m) => [m.name, m.value]));
  const start = await metric();
  await page.waitForFunction(() => window.ages.length > 1500, undefined, { timeout: 60_000 });
  const end = await metric();
  const busy = (end.TaskDuration - start.TaskDuration) / (end.Timestamp - start.Timestamp);
  const [nodes, ages] = await page.evaluate(() => [document.querySelectorAll('*').length, window.ages.sort((a, b) => a - b)]);
  for (let y = 0; y < 30; y++) await page.mouse.wheel(0, 1400);
  const later = await page.evaluate(() => document.querySelectorAll('*').length);
  t.diagnostic(`${sent} updates sent, nodes ${nodes}, after scrolling ${later}, update age p50 ${ages[ages.length >> 1]} ms p95 ${ages[Math.floor(ages.length * 0.95)]} ms, main thread ${(busy * 100).toFixed(0)} %, heap ${(end.JSHeapUsedSize / 1e6).toFixed(1)} MB`);
  assert.ok(nodes <= 1500 && later <= 1500, `${nodes}, ${later} nodes`);
  assert.ok(ages[ages.length >> 1] < 1000, 'the newest value wins and nothing queues up');
  assert.ok(node.heard.some((m) => m.type === 'subscribe' && m.rows?.length > 10 && m.rows.length < 100), 'the node was told which rows are seen');
});

const nodeRow = (id) => `tr[data-node="${id}"]`;

test('the cluster shows who leads, who is silent and who holds what', async (t) => {
  const { node, page } = await visit(t, { hash: '#/c' });
  await page.waitForSelector(nodeRow('n-3'));
  const says = (id) => page.textContent(nodeRow(id));
  for (const [id, want] of [['n-1', ['n1', 'dc1', 'leader', 'this node', '200 GB']], ['n-2', ['voter', 'in reach', '0 entries', '0.4 ms', '−0.02 s']], ['n-3', ['dc2', '24.4 ms']]]) {
    const got = await says(id);
    for (const w of want) assert.ok(got.includes(w), `${id}: ${w} in ${got}`);
  }
  assert.equal(await page.getAttribute(`${nodeRow('n-2')} a`, 'href'), 'http://10.77.2.1:8080');
  assert.ok((await page.textContent('#page')).includes('31 of 86 chunks'), 'what n3 has of an image so far');
  // Figures move while the focus stays on a button of their row.
  await page.focus(`${nodeRow('n-2')} [data-act=demote]`);
  const busy = structuredClone(node.fleet.cluster);
  Object.assign(busy.members[1], { lag: 17, round_trip_ms: 3.2 });
  node.fleet.look(busy);
  await page.waitForFunction((r) => document.querySelector(r).textContent.includes('17 entries'), nodeRow('n-2'));
  assert.equal(await page.evaluate(() => document.activeElement.dataset.act), 'demote');
  node.fleet.look(cluster('silent'));
  await page.waitForSelector(`${nodeRow('n-3')} [data-phase=lost]`);
  const silent = await says('n-3');
  for (const w of ['silent since', '412 entries', '3.2 s ahead']) assert.ok(silent.includes(w), `${w} in ${silent}`);
  // Another page knows who holds an image, too.
  await page.goto(`${page.url().split('#')[0]}#/images`);
  await page.waitForSelector('#page tbody td:has-text("n1, n2, n3 (31 of 86 chunks)")');
});

test('the cluster is changed after a question, by the event', async (t) => {
  const { node, page } = await visit(t, { hash: '#/c' });
  await page.click(`${nodeRow('n-3')} [data-act=demote]`);
  assert.ok((await page.textContent('dialog')).includes('keeps its votes odd by itself'));
  await page.click('dialog [data-confirm=demote]');
  await page.waitForSelector(`${nodeRow('n-3')} [data-role=standby]`);
  await page.click(`${nodeRow('n-3')} [data-act=promote]`);
  await page.click('dialog [data-confirm=promote]');
  await page.waitForSelector(`${nodeRow('n-3')} [data-role=voter]`);
  await page.click(`${nodeRow('n-2')} [data-act=transfer]`);
  await page.click('dialog [data-confirm=transfer]');
  await page.waitForSelector(`${nodeRow('n-2')} [data-role=leader]`);
  await page.click(`${nodeRow('n-3')} [data-act=remove]`);
  assert.ok((await page.textContent('dialog')).includes('with an empty data directory'));
  await page.click('dialog [data-confirm=remove]');
  await page.waitForSelector(nodeRow('n-3'), { state: 'detached' });
  // A refusal is told in the node's words, and the dialog stays.
  for (const m of node.fleet.cluster.members) m.voter = m.id === 'n-2';
  await page.click(`${nodeRow('n-2')} [data-act=remove]`);
  await page.click('dialog [data-confirm=remove]');
  await page.waitForSelector('dialog [role=alert]:has-text("is the last voter: promote another node first")');
  await page.keyboard.press('Escape');
  await page.click('text=Add a node');
  await page.waitForSelector('dialog pre:text-is("lpmos up --join lpmos-join-0001 10.77.1.1:4747")');
  assert.equal(await page.evaluate(() => String(getSelection())), 'lpmos up --join lpmos-join-0001 10.77.1.1:4747', 'it only has to be copied');
  await page.keyboard.press('Escape');
  await page.keyboard.press('g');
  await page.keyboard.press('a');
  await page.waitForSelector('.deeds li >> nth=0 >> text=made join token j-1');
  assert.ok((await page.textContent('.deeds')).includes('operator at 127.0.0.1 removed node n3'));
  const before = await page.$$eval('.deeds li', (l) => l.length);
  node.fleet.note('approved the install of web-4', { machine: 'm-000004' });
  await page.waitForSelector('.deeds li >> nth=0 >> a[href="#/m/m-000004"]');
  assert.equal(await page.$$eval('.deeds li', (l) => l.length), before + 1);
});

test('a node that is cut off says what it cannot do, on every page', async (t) => {
  const { node, page } = await visit(t);
  assert.ok(await page.isHidden('#banner'));
  node.fleet.look(cluster('cut-off'));
  await page.waitForSelector('#banner:not([hidden])');
  const says = await page.textContent('#banner');
  assert.ok(says.includes('This node cannot reach a majority of the cluster: it goes on booting known machines'), says);
  assert.match(says, /What you see is as of \d\d:\d\d:\d\d\.$/);
  assert.ok((await page.textContent('#alert')).includes('cannot reach a majority'), 'it is read aloud');
  const why = 'Not now: this node cannot reach a majority of the cluster.';
  await page.waitForFunction((w) => document.querySelector('#new-task').disabled && document.querySelector('#new-task').title === w, why);
  const m = machineIn(node, 'waiting');
  const off = (s) => page.waitForSelector(`${s}[title="${why}"]:disabled`);
  await off(`${row(m.id)} button`);
  await page.focus(`${row(m.id)} a`);
  await page.keyboard.press('a');
  assert.equal(await page.$('dialog[open]'), null, 'nor by a key');
  const base = page.url().split('#')[0];
  for (const [hash, button] of [[`#/m/${m.id}`, '#page [data-act=approve]'], ['#/images', '#page button.primary'], ['#/c', `${nodeRow('n-2')} [data-act=remove]`], ['#/a', '#new-task']]) {
    await page.goto(base + hash);
    await off(button);
    assert.ok(await page.isVisible('#banner'), hash);
  }
  node.fleet.look(cluster('healthy'));
  await page.waitForSelector('#banner', { state: 'hidden' });
  await page.waitForSelector('#new-task:enabled');
});

test('when a node is lost the page leads to the others', async (t) => {
  const { node, page, url } = await visit(t, { setup: (fleet) => {
    const [one, two, three] = fleet.cluster.members;
    one.dashboard = 'http://127.0.0.1:1/';
    two.dashboard = 'http://127.0.0.1:2/';
    three.dashboard = 'javascript:window.ran=1';
  } });
  assert.ok(await page.isHidden('#banner'));
  node.refuse = true;
  node.cut();
  await page.waitForSelector('#banner:not([hidden])');
  assert.ok((await page.textContent('#banner')).startsWith('The connection to node n1 is lost.'));
  assert.deepEqual(await page.$$eval('#banner a', (l) => l.map((a) => [a.textContent, a.href])), [['n2', 'http://127.0.0.1:2/']]);
  node.refuse = false;
  await live(page);
  await page.waitForSelector('#banner', { state: 'hidden' });
  assert.ok(url);
});

for (const scheme of ['light', 'dark']) {
  test(`axe finds nothing in ${scheme}`, async (t) => {
    const { node, page } = await visit(t, { machines: 36, scheme });
    await page.addInitScript(axe);
    await page.reload();
    await live(page);
    const check = async (what) => {
      const found = await page.evaluate(() => window.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }));
      assert.deepEqual(found.violations.map((v) => `${what}: ${v.id}: ${v.nodes.map((n) => `${n.html.slice(0, 160)} ${n.failureSummary}`).slice(0, 3).join(' | ')}`), []);
    };
    await page.waitForSelector('tr[data-key]');
    await check('fleet');
    const base = page.url().split('#')[0];
    for (const [hash, ready] of [[`#/m/${machineIn(node, 'waiting').id}`, '.disk'], [`#/m/${machineIn(node, 'installing').id}`, '.way .track'], [`#/m/${machineIn(node, 'failed').id}`, '.note.bad'], ['#/images', '#page tbody'], ['#/network', '.lines li'], ['#/doctor', '.checks li'], ['#/c', `${nodeRow('n-3')} button`], ['#/a', '.lines li']]) {
      await page.goto(base + hash);
      await page.waitForSelector(ready);
      await check(hash);
    }
    await page.goto(`${base}#/`);
    await page.click(`${row(machineIn(node, 'discovered').id)} button`);
    await page.waitForSelector('.disk.dies');
    await check('install dialog');
    await page.keyboard.press('Escape');
    await page.keyboard.press('?');
    await page.waitForSelector('kbd');
    await check('help');
    await page.keyboard.press('Escape');
    node.fleet.stall('m-000004', true);
    node.strangers = [stranger(node)];
    for (const hash of ['#/', '#/m/m-000004', '#/network', '#/w/52:54:00:ff:ff:01']) {
      await page.goto(base + hash);
      await page.waitForSelector('.stalled:visible');
      await check(`${hash}, with a machine that stands`);
    }
    for (const state of ['silent', 'cut-off']) {
      node.fleet.look(cluster(state));
      await page.goto(`${base}#/c`);
      await page.waitForSelector(`${nodeRow('n-3')} [data-phase=lost]`);
      if (state === 'cut-off') await page.waitForSelector('#banner:not([hidden])');
      await check(`cluster, ${state}`);
    }
    await page.goto(`${base}#/`);
    await page.waitForSelector('tr[data-key]');
    await check('cut off');
    node.fleet.look(cluster('healthy'));
    await page.goto(`${base}#/c`);
    await page.click(`${nodeRow('n-3')} [data-act=remove]:enabled`);
    await page.waitForSelector('dialog[open]');
    await check('removing a node');
    await page.keyboard.press('Escape');
    node.refuse = true;
    node.cut();
    await page.waitForSelector('#banner:not([hidden])');
    await check('without a connection');
  });
}

test('the keyboard goes everywhere', async (t) => {
  const { page } = await visit(t, { machines: 36 });
  await page.keyboard.press('j');
  const first = await page.evaluate(() => document.activeElement.closest('tr').dataset.key);
  await page.keyboard.press('j');
  const second = await page.evaluate(() => document.activeElement.closest('tr').dataset.key);
  assert.notEqual(first, second);
  await page.keyboard.press('k');
  assert.equal(await page.evaluate(() => document.activeElement.closest('tr').dataset.key), first);
  await page.keyboard.press('Enter');
  await page.waitForSelector('.sheet h1');
  await page.keyboard.press('Escape');
  await page.waitForSelector('#fleet:not([hidden])');
  assert.equal(await page.evaluate(() => document.activeElement.closest('tr')?.dataset.key), first, 'back where it was');
  await page.keyboard.press('/');
  await page.keyboard.type('state:failed');
  await page.waitForFunction(() => location.hash === '#/?q=state:failed');
  await page.keyboard.press('Escape');
  await page.waitForFunction(() => location.hash === '#/');
  await page.evaluate(() => document.activeElement.blur());
  await page.keyboard.press('g');
  await page.keyboard.press('n');
  await page.waitForSelector('h1:text("Network")');
});

test('the doctor names the cause and what mends it, in words and not by colour', async (t) => {
  const { node, page } = await visit(t, { machines: 1 });
  await page.goto(`${page.url().split('#')[0]}#/c`);
  await page.click('text=What keeps machines from booting off this node?');
  await page.waitForSelector('.checks li');
  assert.match(await page.textContent('.note.bad'), /The cause: eno2 link: no carrier/);
  assert.deepEqual(await page.$$eval('.checks .kind', (all) => all.map((e) => e.textContent)), ['✔ ok', '! warning', '✘ fails', '- left out']);
  assert.match(await page.textContent('.checks li:nth-child(2)'), /What mends it: sudo timedatectl/);
  await page.setViewportSize({ width: 320, height: 640 });
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), 'nothing runs off the side at 320 pixels');
  node.fleet.examination = { verdict: 'ok', checks: [{ id: 'configuration', depth: 0, verdict: 'ok', reason: 'fine' }] };
  await page.click('text=Look again');
  await page.waitForSelector('.note.bad', { state: 'detached' });
});

test('at 320 pixels nothing runs off the side', async (t) => {
  const { node, page } = await visit(t, { machines: 36, width: 320, height: 640 });
  const base = page.url().split('#')[0];
  node.fleet.look(cluster('cut-off'));
  node.fleet.stall(machineIn(node, 'waiting').id, true);
  node.strangers = [stranger(node)];
  for (const hash of ['#/', `#/m/${machineIn(node, 'waiting').id}`, '#/images', '#/network', '#/w/52:54:00:ff:ff:01', '#/c', '#/a']) {
    await page.goto(base + hash);
    await page.waitForSelector('#fleet:not([hidden]) tr[data-key], .card >> nth=0');
    const [wide, is] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.ok(wide <= is, `${hash}: ${wide} px`);
  }
});
