// From a machine that asks to boot to a system that came up, by the dashboard of
// a real node and nothing else.
//
//   LPMOS_URL=$(lpmos login-link) LPMOS_IMAGE=tiny node journey.mjs
//
// Optional: LPMOS_MACHINE (words the search must find it by), LPMOS_SHOTS (a
// directory for pictures), LPMOS_TIMEOUT (seconds for each wait, 600).
import { mkdir } from 'node:fs/promises';
import { launch } from './browser.mjs';

const { LPMOS_URL: url, LPMOS_IMAGE: image, LPMOS_MACHINE: wanted = '', LPMOS_SHOTS: shots, LPMOS_HOSTNAME: hostname = '' } = process.env;
const timeout = Number(process.env.LPMOS_TIMEOUT ?? 600) * 1000;
if (!url || !image) {
  console.error('error: LPMOS_URL and LPMOS_IMAGE are needed\nhint: LPMOS_URL=$(lpmos login-link) LPMOS_IMAGE=tiny node journey.mjs');
  process.exit(2);
}

const began = performance.now();
const step = (what) => console.log(`${((performance.now() - began) / 1000).toFixed(1).padStart(7)} s  ${what}`);
const demand = (ok, what) => { if (!ok) throw new Error(what); };

const browser = await launch();
const page = await browser.newPage({ viewport: { width: 1440, height: 900 } });
page.setDefaultTimeout(timeout);
const faults = [];
page.on('pageerror', (e) => faults.push(String(e)));
const picture = async (name) => {
  if (!shots) return;
  await mkdir(shots, { recursive: true });
  await page.screenshot({ path: `${shots}/${name}.png` });
};

async function journey() {
  const base = new URL('/', url).href;
  await page.goto(url);
  await page.waitForSelector('body[data-link=live]', { state: 'attached' });
  demand(!page.url().includes('login='), 'the code of the login link stays in the address');
  step('the login link has signed in');
  await page.goto(`${base}#/?q=${encodeURIComponent(`state:discovered ${wanted}`.trim())}`);
  await page.evaluate(() => { window.neverReloaded = true; });
  await page.waitForSelector('body[data-link=live]', { state: 'attached' });
  step('the dashboard is live');

  const found = await page.waitForSelector('tr[data-key^="m/"][data-phase=discovered]:has(button[data-act=install])');
  const key = await found.getAttribute('data-key');
  const name = await found.$eval('.c-name a', (a) => a.textContent);
  step(`a machine appeared: ${name}`);
  await picture('1-appeared');

  const row = `tr[data-key="${key}"]`;
  await page.click(`${row} button[data-act=install]`);
  await page.waitForSelector('dialog[open]');
  await page.selectOption('#f-os_type', image);
  if (hostname) await page.fill('[id="f-network_config.hostname"]', hostname);
  const erase = page.locator('button[data-confirm=erase]');
  await page.waitForFunction(([i, h]) => {
    const text = document.querySelector('button[data-confirm=erase]:not([hidden])')?.textContent ?? '';
    return text.endsWith(` and install ${i}`) && (!h || document.querySelector('[id="f-network_config.hostname"]').value === h);
  }, [image, hostname]);
  const says = await erase.textContent();
  const dies = await page.$$eval('dialog .disk.dies', (l) => l.map((d) => ({ id: d.querySelector('.mono')?.textContent ?? '', text: d.textContent })));
  const stays = await page.$$eval('dialog .disk.stays', (l) => l.map((d) => d.querySelector('.mono')?.textContent ?? ''));
  demand(dies.length === 1 && dies[0].id, 'the dialog does not name the one disk that is erased');
  demand(says.includes(dies[0].id), `the button does not name the disk: ${says}`);
  const known = await page.evaluate(async (id) => (await (await fetch(`/api/v1/machines/${encodeURIComponent(id)}`)).json()).inventory.disks.map((d) => d.serial || d.wwn), key.slice(2));
  const shown = [dies[0].id, ...stays].sort();
  demand(JSON.stringify(shown) === JSON.stringify([...known].sort()), `the machine has the disks ${known}, the dialog shows ${shown}`);
  step(`the dialog names the disks: ${dies[0].id} will be erased, ${stays.length ? `${stays.join(', ')} stays` : 'there is no other'}`);
  if (await page.isVisible('#proof')) {
    demand(await erase.isDisabled(), 'a disk with something on it may be erased without its serial');
    await page.fill('#proof', dies[0].id.slice(-4));
    step(`typed ${dies[0].id.slice(-4)}, because something lies on it`);
  }
  await picture('2-dialog');

  // Every value the bar takes is written down by the page itself.
  await page.evaluate((selector) => {
    window.bar = [];
    const look = () => {
      const tr = document.querySelector(selector);
      const track = tr?.querySelector('.track');
      if (!track || track.hidden) return;
      const value = Number(/scaleX\(([\d.]+)\)/.exec(track.firstElementChild.style.transform)?.[1]) * 100;
      if (window.bar.at(-1) !== value) window.bar.push(value);
    };
    new MutationObserver(look).observe(document.querySelector('#table tbody'), { subtree: true, childList: true, attributes: true });
  }, row);
  await erase.click();
  await page.waitForSelector('dialog', { state: 'detached' });
  await page.fill('#q', '');
  await page.fill('#q', wanted || key.slice(2));
  step(`clicked "${says}"`);

  await page.waitForSelector(`${row}:is([data-phase=erasing], [data-phase=installing])`);
  step('the machine has its grant and writes');
  await page.waitForFunction(() => window.bar.filter((v) => v > 20).length > 0);
  await picture('3-installing');
  await page.waitForSelector(`${row}:is([data-phase=installed], [data-phase=failed])`);
  demand(await page.$(`${row}[data-phase=installed]`), `the install failed: ${await page.textContent(`${row} .c-doing span`)}`);
  const bar = await page.evaluate(() => window.bar);
  const distinct = [...new Set(bar)];
  step(`the bar moved through ${distinct.length} values to ${Math.max(...bar).toFixed(0)} %: ${distinct.slice(0, 12).map((v) => v.toFixed(0)).join(' ')}${distinct.length > 12 ? ' …' : ''}`);
  demand(distinct.length >= 5, 'the bar moved through fewer than 5 values');
  demand(bar.every((v, i) => i === 0 || v >= bar[i - 1]), `the bar went backwards: ${bar}`);

  await page.waitForFunction((r) => document.querySelector(`${r} .c-doing span`)?.textContent.includes('came up'), row);
  step(await page.textContent(`${row} .c-doing span`));
  demand(Math.max(...await page.evaluate(() => window.bar)) === 100, 'the bar never reached 100');
  demand(await page.evaluate(() => window.neverReloaded === true), 'the page was loaded again');
  await picture('4-came-up');
  await page.click(`${row} .c-name a`);
  await page.waitForSelector('.note.good');
  await picture('5-machine');
  demand(faults.length === 0, `the page had errors: ${faults.join('; ')}`);
  step('done');
}

try {
  await journey();
} catch (e) {
  await picture('failed').catch(() => {});
  console.error(`error: ${e.message}`);
  process.exitCode = 1;
} finally {
  await browser.close();
}
