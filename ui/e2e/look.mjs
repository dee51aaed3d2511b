// Takes pictures of the dashboard over a fake node, in every size and colour.
//   node look.mjs DIR
import { mkdir } from 'node:fs/promises';
import { launch } from './browser.mjs';
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
  images: { hash: '#/images' }, network: { hash: '#/network', scheme: 'dark' }, help: { then: (p) => p.keyboard.press('?') },
};
for (const [name, options] of Object.entries(shots)) if (!only || only.split(',').includes(name)) await shot(name, options).catch((e) => errors.push(`${name}: ${e}`));
await browser.close();
console.log(errors.length ? errors.join('\n') : 'no errors');
