// Takes pictures of the dashboard over a fake node, in every size and colour.
//   node look.mjs DIR
import { mkdir } from 'node:fs/promises';
import { launch } from './browser.mjs';
import { cluster } from './fake-fleet.mjs';
import { FakeNode } from './fake-node.mjs';

const dir = process.argv[2] ?? 'shots';
await mkdir(dir, { recursive: true });
const browser = await launch();
const errors = [];
async function shot(name, { machines = 36, scheme = 'light', width = 1440, height = 860, hash = '', then = async () => {} } = {}) {
  const node = new FakeNode({ machines });
  const url = await node.listen();
  const page = await browser.newPage({ viewport: { width, height }, colorScheme: scheme });
  page.on('console', (m) => { if (m.type() === 'error') errors.push(`${name}: ${m.text()}`); });
  page.on('pageerror', (e) => errors.push(`${name}: ${e.stack}`));
  node.play(0.2);
  await page.goto(url + hash);
  await page.waitForSelector('body[data-link=live]', { state: 'attached', timeout: 8000 });
  await page.waitForTimeout(900);
  await then(page, node);
  await page.waitForTimeout(300);
  await page.screenshot({ path: `${dir}/${name}.png` });
  await page.close();
  await node.stop();
}
const silent = async (p, n) => n.fleet.look(cluster('silent'));
const cutOff = async (p, n) => n.fleet.look(cluster('cut-off'));
const audit = async (p, n) => {
  n.fleet.note('made join token j-1, good until 2026-03-14T13:00:00Z');
  n.fleet.note('node n-3 used join token j-1', { by: '' });
  n.fleet.note('gave node n3 a vote');
  n.fleet.note('approved the install of debian-12 on web-4', { machine: 'm-000004' });
  n.fleet.note('node n2 leads since term 5', { by: '' });
};
const stalls = async (p, n) => {
  n.fleet.stall('m-000004', true);
  n.strangers = [{ mac: '52:54:00:ff:ff:01', address: '10.77.0.180', at: new Date().toISOString(), text: 'fetched snponly.efi over TFTP (173792 bytes)', node: 'n2',
    stall: n.fleet.machines.get('m-000004').stall }];
};
const stalledPage = async (p, n) => { await stalls(p, n); await p.reload(); await p.waitForSelector('.stalled'); };
const only = process.argv[3];
const shots = {
  fleet: {}, 'fleet-dark': { scheme: 'dark' }, 'fleet-1000': { machines: 1000 }, 'fleet-320': { width: 320, height: 640 }, 'fleet-900': { width: 900 },
  empty: { machines: 0 },
  lost: { then: async (p, n) => { n.refuse = true; n.cut(); await p.waitForTimeout(1500); } },
  machine: { hash: '#/m/m-000003', height: 1500 }, 'machine-dark': { hash: '#/m/m-000004', scheme: 'dark', height: 1500 }, 'machine-320': { hash: '#/m/m-000004', width: 320, height: 1400 },
  'machine-failed': { hash: '#/m/m-000009' },
  approve: { hash: '#/m/m-000004', then: (p) => p.click('button[data-act=approve]') },
  'approve-contents': { machines: 20, hash: '#/?q=m-00000c', then: async (p) => { await p.click('a[data-filter=""]'); await p.keyboard.press('/'); await p.fill('#q', 'state:discovered'); await p.waitForTimeout(300); await p.click('tr[data-key] button'); await p.waitForTimeout(500); } },
  create: { scheme: 'dark', then: async (p) => { await p.click('#new-task'); await p.waitForSelector('dialog[open]'); } },
  'install-320': { width: 320, height: 640, then: async (p) => { await p.fill('#q', 'state:discovered'); await p.waitForTimeout(300); await p.click('tr[data-key] button'); await p.waitForTimeout(500); } },
  cluster: { hash: '#/c' }, 'cluster-dark': { hash: '#/c', scheme: 'dark', then: silent }, 'cluster-cut-off': { hash: '#/c', then: cutOff }, 'cluster-320': { hash: '#/c', width: 320, height: 900, then: silent },
  'fleet-cut-off': { then: cutOff }, 'fleet-cut-off-320': { width: 320, height: 640, then: cutOff }, 'cluster-remove': { hash: '#/c', then: (p) => p.click('[data-node=n-3] [data-act=remove]') }, 'cluster-add': { hash: '#/c', scheme: 'dark', then: (p) => p.click('text=Add a node') },
  elsewhere: { then: async (p, n) => { n.refuse = true; n.cut(); await p.waitForSelector('#banner:not([hidden])'); } },
  audit: { hash: '#/a', then: audit }, 'audit-320': { hash: '#/a', width: 320, height: 640, then: audit },
  'stalled-fleet': { then: stalls }, 'stalled-fleet-dark': { scheme: 'dark', then: stalls }, 'stalled-fleet-320': { width: 320, height: 640, then: stalls },
  'stalled-machine': { hash: '#/m/m-000004', height: 1100, then: stalledPage }, 'stalled-machine-dark': { hash: '#/m/m-000004', height: 1100, scheme: 'dark', then: stalledPage }, 'stalled-machine-320': { hash: '#/m/m-000004', width: 320, height: 1200, then: stalledPage },
  'stalled-network': { hash: '#/network', height: 900, then: stalledPage }, 'stalled-network-dark': { hash: '#/network', height: 900, scheme: 'dark', then: stalledPage },
  'stranger': { hash: '#/network', then: async (p, n) => { await stalls(p, n); n.strangers[0].timeline = n.fleet.machines.get('m-000004').timeline; await p.goto(p.url().split('#')[0] + '#/w/52:54:00:ff:ff:01'); await p.waitForSelector('.way-line'); } },
  images: { hash: '#/images' }, network: { hash: '#/network', scheme: 'dark' }, help: { then: (p) => p.keyboard.press('?') },
};
if (!only || only.split(',').includes('gallery')) {
  const node = new FakeNode({ machines: 0 });
  const page = await browser.newPage({ viewport: { width: 1440, height: 900 } });
  page.on('pageerror', (e) => errors.push(`gallery: ${e.stack}`));
  await page.goto(`${await node.listen()}gallery.html`);
  await page.waitForSelector('tr[data-key]');
  await page.screenshot({ path: `${dir}/gallery.png`, fullPage: true });
  await page.close();
  await node.stop();
}
for (const [name, options] of Object.entries(shots)) if (!only || only.split(',').includes(name)) await shot(name, options).catch((e) => errors.push(`${name}: ${e}`));
await browser.close();
console.log(errors.length ? errors.join('\n') : 'no errors');
