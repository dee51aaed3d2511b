// @ts-check
// Every state at once, for the eye: the golden files the API's tests write,
// drawn by the dashboard's own code. The files are not in the binary, so this
// page works where the dashboard is served from a source tree.

import { Page as Cluster } from './cluster.js';
import { Store, phases } from './feed.js';
import { Fleet } from './fleet.js';
import { planDisks } from './disks.js';
import { complaint } from './dialogs.js';
import { Refused } from './api.js';
import { h, state } from './html.js';
import { text } from './text.js';

const fixture = async (/** @type {string} */ name) => (await fetch(`test/fixtures/${name}.json`)).json();
const main = /** @type {HTMLElement} */ (document.getElementById('gallery'));

async function draw() {
  const [snapshot, preview, refusal, silent, cutOff] = await Promise.all(['snapshot', 'plan', 'problem-412', 'cluster-silent', 'cluster-cut-off'].map(fixture));
  // The table's skeleton is the dashboard's own.
  const page = new DOMParser().parseFromString(await (await fetch('index.html')).text(), 'text/html');
  for (const id of ['row', 'group']) document.body.append(document.importNode(/** @type {Node} */ (page.getElementById(id)), true));
  const section = /** @type {HTMLElement} */ (document.importNode(/** @type {Node} */ (page.getElementById('fleet')), true));
  section.querySelector('.tools')?.remove();
  section.querySelector('h1')?.remove();
  section.hidden = false;
  main.append(
    h('section.card', null, h('h2', null, 'States'), h('dl.facts', null, phases.map((p) => [h('dt', null, state(p)), h('dd', null, text.phaseMeans[p])]))),
    h('section.card', null, h('h2', null, 'A plan'), planDisks(preview.plan)),
    h('section.card', null, h('h2', null, 'A refusal'), complaint(new Refused(refusal.status, refusal))));
  for (const [title, cluster] of [['all is well', snapshot.cluster], ['one is silent', silent], ['cut off', cutOff]]) {
    const seen = new Store(() => Date.parse(snapshot.time));
    seen.take({ ...snapshot, cluster });
    const root = h('div', { aria: { label: `A cluster: ${title}` }, role: 'region' });
    document.body.append(root);
    new Cluster(root, { store: seen, why: () => cluster.quorum ? '' : text.noMajority, dirty() {} }).paint();
  }
  document.body.append(section);
  const store = new Store(() => Date.parse(snapshot.time));
  const paint = () => requestAnimationFrame(() => fleet.paint(true));
  const fleet = new Fleet(section, store, { act() {}, go() {}, show() {}, why: () => '', dirty: paint });
  store.take(snapshot);
  fleet.look('', '');
  paint();
}

draw().catch((e) => main.append(complaint(e)));
