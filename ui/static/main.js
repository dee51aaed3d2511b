// @ts-check
// Wires the page: the socket to the store, the store to what is on the screen,
// addresses and keys to the views. Dialogs and pages are fetched when first used.

import { Socket, Store } from './feed.js';
import { Fleet, setText } from './fleet.js';
import { clock, plural, text } from './text.js';

const $ = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));

const store = new Store();
const socket = new Socket(store, {
  open: (path) => new WebSocket(location.origin.replace(/^http/, 'ws') + path),
  online: () => navigator.onLine,
});

/** What views and dialogs may use. */
const app = {
  store, socket, go, act, why, dirty,
  /** A view of its own is told when anything changes. @type {{paint: (tick: boolean) => void, leave?: () => void}|null} */
  page: null,
};
const fleet = new Fleet($('fleet'), store, { act, go, dirty, why, show: (ids) => socket.show(ids) });

const ranks = ['viewer', 'operator', 'admin'];

/** Why nothing can be changed now by who is signed in, or "" when it can. @param {string} need the least role */
function why(need = 'operator') {
  if (!socket.live) return text.noServer;
  const who = socket.who;
  if (who && ranks.indexOf(who.role) < ranks.indexOf(need)) return text.mayNot(who.name, who.role, need);
  return cutOff() ? text.noMajority : '';
}

/** Whoever is not signed in is asked who they are, and what was on the page goes. @param {string} says */
async function signedOut(says) {
  socket.stop();
  paused = true;
  (await import('./signin.js')).open(says);
}
socket.addEventListener('doubt', async (/** @type {any} */ e) => {
  if (e.detail) { signedOut(text.signIn.ended); return; }
  const { signedIn } = await import('./signin.js');
  if (!await signedIn()) signedOut(store.known ? text.signIn.ended : '');
});
addEventListener('signed-out', () => signedOut(text.signIn.ended));
/** Nothing can be decided, and not only for the moment an election takes. */
function cutOff() { return Boolean(store.cluster && !store.cluster.quorum && store.cluster.problem); }

// Painting: once a frame at most, and once a second for ages and counts.
let planned = false, ticked = true, paused = false;
function dirty() {
  if (planned) return;
  planned = true;
  requestAnimationFrame(paint);
}
function paint() {
  planned = false;
  if (document.body.dataset.link === 'signed-out') return;
  if (paused && !ticked) return;
  const tick = ticked;
  ticked = false;
  if (!paused) {
    header();
    fleet.paint(tick);
    app.page?.paint(tick);
  }
  if (tick) {
    socket.listen();
    linkLight();
  }
  banner();
}
setInterval(() => { ticked = true; dirty(); }, 1000);
store.addEventListener('frame', dirty);

let counted = -1;
function header() {
  if (counted !== store.shape) {
    counted = store.shape;
    const n = store.counts();
    for (const a of $('chips').children) {
      const key = a.dataset.filter;
      const count = key === '' ? n.all : key === 'needs:you' ? n.needs : n[key.slice(6)];
      setText(a.querySelector('b'), count.toLocaleString('en'));
      a.classList.toggle('none', count === 0);
    }
    mark(n.needs > 0);
    const title = (n.needs ? `(${n.needs}) ` : '') + text.title;
    if (document.title !== title) document.title = title;
  }
  if ($('fleet').hidden) return;
  const { running, bps } = store.load();
  setText($('load'), paused ? text.paused : text.working(running, bps));
  setText($('shown'), fleet.query && store.known ? text.shown(fleet.matched ?? 0, store.rows.size) : '');
  emptyState();
}

/** The tab's picture says whether somebody is waited for. It comes when all else has. @param {boolean} needs */
function mark(needs) {
  const href = needs ? 'icon-needs.svg' : 'icon.svg';
  clearTimeout(marking);
  if ($('icon').getAttribute('href') !== href) marking = window.setTimeout(() => { $('icon').href = href; }, 3000);
}
let marking = 0;

function emptyState() {
  const want = fleet.lines.length ? '' : !store.known ? 'loading' : fleet.query ? 'noMatch' : 'nothing';
  if (fleet.empty.dataset.kind === want) return;
  fleet.empty.dataset.kind = want;
  const e = text.empty;
  const add = (/** @type {string} */ tag, /** @type {string} */ s, /** @type {Element} */ to = fleet.empty) => {
    const el = document.createElement(tag);
    el.textContent = s;
    to.append(el);
    return /** @type {any} */ (el);
  };
  fleet.empty.replaceChildren();
  if (want === 'loading') add('p', e.loading);
  if (want === 'noMatch') { add('p', e.noMatch); add('a', e.clear).href = '#/'; }
  if (want === 'nothing') {
    add('h2', e.nothing);
    const list = add('ol', '');
    for (const s of e.nothingHow) add('li', s, list);
    add('a', e.nothingWatch).href = '#/network';
    add('button', e.nothingTask).onclick = () => newTask();
  }
}

// The connection light.
function linkLight() {
  document.body.dataset.link = socket.link;
  const waiting = !socket.live && socket.due > store.clock();
  const name = text.link[socket.link] ?? socket.link;
  setText($('link-text'), socket.live ? `${name} · ${socket.node}`
    : waiting && store.known ? text.asOf(clock(store.heard), Math.ceil((socket.due - store.clock()) / 1000)) : name);
  $('link').title = socket.link === 'offline' ? text.offlineNow : [socket.node, socket.version].filter(Boolean).join(' ');
  $('now').hidden = !waiting;
  const who = socket.who;
  setText($('who'), who?.name ?? '');
  $('who').hidden = !who;
  $('new-task').disabled = Boolean(why());
  $('new-task').title = why();
}

/** What cannot be done and why, and what is wrong on the wire, on every page; or where to look when this node is lost. */
function banner() {
  const c = store.cluster;
  let says = '';
  /** @type {any[]} */ let others = [];
  if (socket.live) {
    const stuck = c?.problem ? [c.problem, cutOff() && text.heardAt(clock(c.heard_at))].filter(Boolean).join(' ') : '';
    says = [stuck, ...(c?.alarms ?? [])].filter(Boolean).join(' · ');
  } else if (c && store.clock() - store.heard > 3000) {
    others = elsewhere(c);
    says = others.length ? text.elsewhere(socket.node) : '';
  }
  document.body.classList.toggle('old', socket.live && cutOff());
  const key = JSON.stringify([says, others]);
  if (key === $('banner').dataset.key) return;
  $('banner').dataset.key = key;
  $('banner').hidden = !says;
  $('banner').replaceChildren(says, ...others.flatMap((o) => {
    const a = document.createElement('a');
    a.href = o.url;
    a.textContent = o.name;
    return [' ', a];
  }));
}

/** The dashboards of other nodes that a browser can go to from here. @param {any} c @returns {{name: string, url: string}[]} */
function elsewhere(c) {
  const local = (/** @type {string} */ host) => /^(localhost|127\.|\[::1\])/.test(host);
  return c.members.filter((/** @type {any} */ m) => m.id !== c.node && m.reachable).flatMap((/** @type {any} */ m) => {
    if (!/^https?:/.test(m.dashboard ?? '') || !URL.canParse(m.dashboard)) return [];
    const u = new URL(m.dashboard);
    // An address that is good on its own host alone leads nowhere from another.
    return u.origin === location.origin || (local(u.host) && !local(location.host)) ? [] : [{ name: m.name, url: u.href }];
  });
}
let wasLive = false;
socket.addEventListener('link', () => {
  if (wasLive && !socket.live && socket.link !== 'catching' && socket.due) announceLink(text.live.lostLink);
  if (socket.live && !wasLive && $('alert').textContent) announceLink(text.live.gotLink);
  wasLive = socket.live;
  ticked = true;
  dirty();
});
let undecided = '';
store.addEventListener('frame', () => {
  const now = cutOff() ? store.cluster.problem : '';
  if (Boolean(now) !== Boolean(undecided)) announceLink(now || text.live.decides);
  undecided = now;
});
function announceLink(/** @type {string} */ s) { setText($('alert'), s); }
addEventListener('online', () => socket.nudge());
addEventListener('focus', () => socket.nudge());
addEventListener('visibilitychange', () => { if (!document.hidden) socket.nudge(); });
addEventListener('offline', () => { ticked = true; dirty(); });
$('now').onclick = () => socket.nudge();

// At most one sentence every 5 s for those who listen instead of look.
/** @type {any[]} */ let moved = [];
let speaking = 0;
store.addEventListener('moved', (/** @type {any} */ e) => {
  if (!['waiting', 'failed', 'lost', 'installed'].includes(e.detail.row.phase)) return;
  moved.push(e.detail.row);
  speaking ||= window.setTimeout(() => {
    speaking = 0;
    const needs = store.counts().needs;
    const last = moved[moved.length - 1];
    setText($('polite'), [text.live.one(last.name, text.phase[last.phase], last.says), needs ? text.live.waiting(needs) : ''].join(' ').trim());
    moved = [];
  }, 5000);
});

// Addresses: #/ , #/m/ID , #/t/ID , #/images , #/network , #/w/MAC , #/c , #/a , #/u; the search and the order are in them too.
const places = {
  m: () => import('./machine.js'), t: () => import('./machine.js'),
  images: () => import('./images.js'), network: () => import('./network.js'), w: () => import('./wire.js'),
  c: () => import('./cluster.js'), a: () => import('./audit.js'), u: () => import('./access.js'),
  doctor: () => import('./doctor.js'),
};
let here = '', scrolled = 0;
history.scrollRestoration = 'manual';

function go(/** @type {string} */ hash) { location.hash = hash; }

async function route() {
  const [path, search = ''] = location.hash.slice(1).split('?');
  const [, place = '', id = ''] = path.split('/');
  const params = new URLSearchParams(search);
  const onFleet = !(place in places);
  if (here === 'fleet' && !onFleet) scrolled = scrollY;
  const tab = onFleet || place === 'm' || place === 't' ? 'fleet' : place === 'w' ? 'network' : place;
  for (const a of document.querySelectorAll('.places a')) {
    const mine = /** @type {HTMLElement} */ (a).dataset.place === tab;
    if (mine) a.setAttribute('aria-current', 'page'); else a.removeAttribute('aria-current');
  }
  if (!onFleet) {
    const arriving = path;
    if (here === arriving) return;
    here = arriving;
    app.page?.leave?.();
    app.page = null;
    $('fleet').hidden = true;
    scrollTo(0, 0);
    try {
      const { Page } = await places[place]();
      if (here !== arriving) return;
      app.page = new Page($('page'), app, decodeURIComponent(id), place);
    } catch (e) {
      $('page').textContent = `${text.noServer} (${e})`;
      here = '';
      return;
    }
    $('main').focus({ preventScroll: true });
    dirty();
    return;
  }
  const back = here !== 'fleet';
  here = 'fleet';
  app.page?.leave?.();
  app.page = null;
  $('page').replaceChildren();
  $('fleet').hidden = false;
  const q = params.get('q') ?? '';
  if ($('q').value.trim() !== q) $('q').value = q;
  fleet.measure();
  fleet.look(q, params.get('sort') ?? '');
  for (const a of $('chips').children) {
    const on = a.dataset.filter === q;
    if (on) a.setAttribute('aria-current', 'true'); else a.removeAttribute('aria-current');
    a.setAttribute('href', fleetHash(on ? '' : a.dataset.filter, fleet.sort));
  }
  ticked = true;
  paint();
  if (back) {
    scrollTo(0, scrolled);
    fleet.paint(true);
    if (scrolled || fleet.cursor) fleet.focusCursor();
  }
}

function fleetHash(/** @type {string} */ q, /** @type {string} */ sort) {
  const p = new URLSearchParams();
  if (q) p.set('q', q);
  if (sort) p.set('sort', sort);
  const s = p.toString().replaceAll('%3A', ':');
  return s ? `#/?${s}` : '#/';
}
function look(/** @type {string} */ q, /** @type {string} */ sort) {
  history.replaceState(null, '', fleetHash(q, sort));
  route();
}
// A login link that is opened where this page is already changes nothing but the hash.
addEventListener('hashchange', () => { if (location.hash.startsWith('#login=')) location.reload(); else route(); });
$('q').oninput = () => look($('q').value.trim(), fleet.sort);
$('search').onsubmit = (/** @type {Event} */ e) => { e.preventDefault(); fleet.move(1); };
$('q-help').textContent = text.filterHelp;
$('q').title = text.filterHelp;
fleet.onsort = (sort) => look(fleet.query, sort);

// Acting: every action opens a dialog that says what will happen.
async function act(/** @type {string} */ action, /** @type {any} */ row) {
  if (why() || document.querySelector('dialog[open]')) return;
  const dialog = await (action === 'install' || action === 'approve' ? import('./install.js') : action === 'boot' ? import('./boot.js') : import('./dialogs.js'));
  dialog.open(app, action, row);
}
async function newTask() { if (!why()) (await import('./install.js')).open(app, 'create', null); }
async function help() { (await import('./dialogs.js')).help(); }
function pause() {
  paused = !paused;
  $('pause').setAttribute('aria-pressed', String(paused));
  document.body.classList.toggle('paused', paused);
  setText($('load'), paused ? text.paused : '');
  dirty();
}
$('new-task').onclick = newTask;
$('help').onclick = help;
$('pause').onclick = pause;

// Colours: as the system, or as chosen here.
const themes = ['', 'light', 'dark'];
function theme(/** @type {string} */ t) {
  document.documentElement.dataset.theme = t;
  const label = `Colours: ${t || 'as the system'}`;
  $('theme').title = label;
  $('theme').setAttribute('aria-label', label);
}
theme(localStorage.getItem('theme') ?? '');
$('theme').onclick = () => {
  const t = themes[(themes.indexOf(document.documentElement.dataset.theme ?? '') + 1) % themes.length];
  localStorage.setItem('theme', t);
  theme(t);
};

// Keys.
const gotos = { m: '#/', i: '#/images', n: '#/network', c: '#/c', a: '#/a', u: '#/u' };
let wentG = -Infinity;
/** @type {Record<string, (row: any) => void>} */
const keys = {
  '/': () => { if (here !== 'fleet') go('#/'); setTimeout(() => { $('q').focus(); $('q').select(); }); },
  j: () => fleet.move(1), k: () => fleet.move(-1),
  ArrowDown: () => fleet.move(1), ArrowUp: () => fleet.move(-1),
  a: (row) => { const x = ['approve', 'install'].find((n) => row?.actions.includes(n)); if (x) act(x, row); },
  r: (row) => { if (row?.actions.includes('retry')) act('retry', row); },
  n: newTask, p: pause, '?': help,
  Escape: () => { if (here !== 'fleet') go(fleetHash(fleet.query, fleet.sort)); else if (fleet.query) look('', fleet.sort); },
};
addEventListener('keydown', (e) => {
  const at = /** @type {HTMLElement} */ (e.target);
  if (e.ctrlKey || e.metaKey || e.altKey || document.querySelector('dialog[open]')) return;
  if (at.matches('input, textarea, select')) {
    if (e.key === 'Escape' && at.id === 'q') { e.preventDefault(); if ($('q').value) look('', fleet.sort); else at.blur(); }
    if (e.key === 'ArrowDown' && at.id === 'q') { e.preventDefault(); fleet.move(1); }
    return;
  }
  if (e.key === 'g') { wentG = e.timeStamp; return; }
  if (e.timeStamp - wentG < 1500 && e.key in gotos) { wentG = -Infinity; e.preventDefault(); go(gotos[e.key]); return; }
  wentG = -Infinity;
  const onList = here === 'fleet';
  if (e.key.startsWith('Arrow') && (!onList || !fleet.body.contains(at))) return;
  if ((e.key === 'j' || e.key === 'k') && !onList) return;
  const f = keys[e.key];
  if (!f) return;
  e.preventDefault();
  f(onList ? fleet.current : store.rows.get(here.slice(1)));
});

async function begin() {
  // A login link: its code is used and leaves the address at once.
  const code = /^#login=(.+)$/.exec(location.hash)?.[1];
  if (code) {
    history.replaceState(null, '', '#/');
    const { redeem } = await import('./signin.js');
    if (!await redeem(decodeURIComponent(code))) return;
  }
  route();
  socket.connect();
}
begin();
