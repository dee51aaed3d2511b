// A node for looking at the dashboard without one: it serves ../static under the
// real Content-Security-Policy, answers the API from a FakeFleet and speaks the
// socket. For development and tests only.
//
//   node fake-node.mjs --machines 1000 --running 40 --port 8088
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import http from 'node:http';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { FakeFleet, listed, problem } from './fake-fleet.mjs';

const root = fileURLToPath(new URL('../static/', import.meta.url));
const csp = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
const types = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript; charset=utf-8', '.css': 'text/css; charset=utf-8', '.svg': 'image/svg+xml', '.json': 'application/json' };

/** One viewer's socket, RFC 6455, text frames only. */
class Viewer {
  constructor(socket, node) {
    this.socket = socket;
    this.node = node;
    this.rows = new Set();
    this.rest = Buffer.alloc(0);
    socket.on('data', (b) => this.read(b));
    socket.on('close', () => node.viewers.delete(this));
    socket.on('error', () => node.viewers.delete(this));
  }

  send(m) {
    const body = Buffer.from(JSON.stringify(m));
    const head = body.length < 126 ? Buffer.from([0x81, body.length])
      : body.length < 65536 ? Buffer.from([0x81, 126, body.length >> 8, body.length & 255])
        : Buffer.concat([Buffer.from([0x81, 127]), (() => { const b = Buffer.alloc(8); b.writeBigUInt64BE(BigInt(body.length)); return b; })()]);
    this.socket.write(Buffer.concat([head, body]));
    this.node.sent += body.length;
  }

  read(b) {
    this.rest = Buffer.concat([this.rest, b]);
    for (;;) {
      const r = this.rest;
      if (r.length < 6) return;
      let n = r[1] & 127, at = 2;
      if (n === 126) { n = r.readUInt16BE(2); at = 4; }
      if (r.length < at + 4 + n) return;
      const body = r.subarray(at + 4, at + 4 + n).map((x, i) => x ^ r[at + (i & 3)]);
      this.rest = r.subarray(at + 4 + n);
      if ((r[0] & 15) === 8) { this.socket.end(); return; }
      if ((r[0] & 15) !== 1) continue;
      const m = JSON.parse(body.toString());
      this.node.heard.push(m);
      if (m.type === 'subscribe' && m.rows) this.rows = new Set(m.rows);
      if (m.type === 'ping') this.send({ type: 'pong', time: new Date().toISOString() });
    }
  }
}

export class FakeNode {
  constructor(options = {}) {
    this.fleet = new FakeFleet(options);
    this.viewers = new Set();
    this.heard = [];
    this.requests = [];
    this.sent = 0;
    this.refuse = false;
    /** @type {any[]} */ this.strangers = [];
    this.who = { name: 'anna', role: 'admin', account: true, setup: false };
    this.users = [{ id: 'u-1', name: 'anna', role: 'admin', disabled: false, created_at: new Date().toISOString(), sessions: 1 }];
    this.tokens = [];
    this.fleet.listeners.add((f) => { for (const v of this.viewers) v.send(f); });
    this.server = http.createServer((q, s) => this.handle(q, s));
    this.server.on('upgrade', (q, socket) => this.upgrade(q, socket));
  }

  async listen(port = 0) {
    await new Promise((ok) => this.server.listen(port, '127.0.0.1', ok));
    return this.url = `http://127.0.0.1:${this.server.address().port}/`;
  }

  upgrade(q, socket) {
    if (this.refuse) return socket.destroy();
    const key = createHash('sha1').update(q.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11').digest('base64');
    socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${key}\r\n\r\n`);
    const v = new Viewer(socket, this);
    this.viewers.add(v);
    this.lastSince = new URL(q.url, 'http://x').searchParams.get('since');
    v.send({ type: 'hello', node: 'n1', version: '0.2.0', time: new Date().toISOString(), who: this.who });
    const since = Number(this.lastSince);
    const missed = this.fleet.history.filter((f) => f.index > since);
    if (this.lastSince === null || missed.length < this.fleet.index - since) return v.send(this.fleet.snapshot());
    v.send({ type: 'resumed', index: since, time: new Date().toISOString() });
    for (const f of missed) v.send(f);
  }

  /** Cuts every viewer, as a restart would. */
  cut() { for (const v of this.viewers) v.socket.destroy(); }

  async stop() {
    clearInterval(this.timer);
    this.cut();
    this.server.closeAllConnections();
    await new Promise((ok) => this.server.close(ok));
  }

  /** Plays installs: each moves by step percent, told at 10 Hz for rows seen and 1 Hz for the rest. */
  play(step = 0.4) {
    let beat = 0;
    this.timer = setInterval(() => {
      beat++;
      const items = [];
      for (const t of this.fleet.installing()) {
        const next = (t.progress?.percentage ?? 0) + step * (0.5 + (parseInt(t.id.slice(2), 16) % 7) / 6);
        if (next >= 100 && !this.forever) { this.fleet.move(t, 'completed', { phase_text: 'written, waits for it to come up' }); continue; }
        items.push(this.fleet.progress(t, next % 100));
      }
      for (const v of this.viewers) {
        const mine = items.filter((i) => beat % 10 === 0 || v.rows.has(i.machine_id));
        if (mine.length) v.send({ type: 'progress_batch', index: this.fleet.index, time: new Date().toISOString(), items: mine });
      }
      for (const t of this.fleet.tasks.values()) {
        if (beat % 5 || Date.parse(t.updated_at) > Date.now() - 1500) continue;
        if (t.status === 'approved') this.fleet.move(t, 'installing');
        if (t.status === 'completed' && !t.came_up) this.fleet.move(t, 'completed', { phase_text: `came up as ${t.network_config.hostname || t.machine_name}`, came_up: { at: new Date().toISOString(), hostname: t.network_config.hostname } });
      }
    }, 100);
  }

  async handle(q, s) {
    const url = new URL(q.url, 'http://x');
    this.requests.push(`${q.method} ${url.pathname}`);
    try {
      if (url.pathname.startsWith('/api/')) return await this.api(q, s, url);
      const name = url.pathname === '/' ? 'index.html' : path.normalize(url.pathname).slice(1);
      const body = gzipSync(await readFile(path.join(root, name)));
      s.writeHead(200, { 'Content-Type': types[path.extname(name)] ?? 'application/octet-stream', 'Content-Encoding': 'gzip', 'Content-Length': body.length, 'Content-Security-Policy': csp, 'X-Content-Type-Options': 'nosniff', 'Cache-Control': 'no-cache' });
      s.end(body);
    } catch (e) {
      if (e.code === 'ENOENT') e.status = 404;
      s.writeHead(e.status ?? 500, { 'Content-Type': 'application/problem+json' });
      s.end(JSON.stringify(e.body ?? { title: String(e), status: e.status ?? 500, detail: String(e) }));
    }
  }

  async api(q, s, url) {
    const chunks = [];
    for await (const c of q) chunks.push(c);
    const raw = Buffer.concat(chunks);
    const body = (q.headers['content-type'] ?? '').includes('json') && raw.length ? JSON.parse(raw.toString()) : null;
    const [kind, id, verb, deed] = url.pathname.slice('/api/v1/'.length).split('/').map(decodeURIComponent);
    const f = this.fleet;
    const t = f.tasks.get(id), m = f.machines.get(id);
    if (kind === 'tasks' && id && !t) throw problem(404, `there is no task ${id}`);
    if (kind === 'machines' && id && !m) throw problem(404, `there is no machine ${id}`);
    const answers = {
      'GET doctor': () => f.examination ?? { verdict: 'fail', checks: [
        { id: 'configuration', depth: 0, verdict: 'ok', reason: 'it is what this node was started with' }, { id: 'clock', depth: 1, verdict: 'warn', reason: 'nothing keeps this clock right', fix: 'sudo timedatectl set-ntp true' },
        { id: 'link', of: 'eno2', depth: 2, verdict: 'fail', reason: 'no carrier: nothing is plugged in, or the other end is off', fix: 'ip link show eno2' }, { id: 'bmc', depth: 0, verdict: 'skip', reason: 'this version switches no machine on by itself' }] },
      'GET tasks': () => ({ tasks: [...f.tasks.values()].filter((x) => x.machine_id === url.searchParams.get('machine_id')).map(listed) }),
      'GET tasks id': () => ({ ...t, hardware: f.machines.get(t.machine_id)?.inventory ?? null }),
      'POST tasks': () => f.makeTask(body),
      'POST plan': () => f.planFor(body),
      'PUT tasks id approve': () => {
        if (body.approved && body.plan_hash !== t.plan_hash) throw problem(412, 'the plan has changed since you read it', '', ['what lies on disk LAB-3-D1 has changed']);
        f.move(t, body.approved ? 'approved' : 'rejected');
        return t;
      },
      'POST tasks id cancel': () => { f.move(t, 'cancelled'); return t; },
      'POST tasks id retry': () => { t.generation++; t.error = null; f.move(t, 'pending_approval'); return t; },
      'DELETE tasks id': () => { f.tasks.delete(id); f.emit('task_deleted', { task_id: id }); return null; },
      'GET machines id': () => m,
      'DELETE machines id': () => { f.machines.delete(id); f.emit('machine_deleted', { machine_id: id }); return null; },
      'POST machines id settle': () => { m.question = ''; m.rival = null; m.actions = ['install', 'forget']; f.emit('machine', { machine_id: id, machine: listed(m) }); return m; },
      'GET profiles': () => ({ profiles: f.profiles }),
      'GET machines id boot': () => f.bootOffer(m, url.searchParams.get('profile')),
      'POST machines id boot': () => {
        const offer = f.bootOffer(m, body.profile);
        if (body.plan_hash !== (offer.plan_hash || undefined)) throw problem(412, 'the plan is not the one you saw', '', ['what lies on the disk has changed']);
        f.boot(m, { profile: body.profile, erases: offer.profile.erases, by: 'anna', at: new Date().toISOString(), expires: new Date(Date.now() + 36e5).toISOString(), waits: 'at its next netboot', disk: offer.plan?.erase.serial });
        return m;
      },
      'DELETE machines id boot': () => { f.boot(m, undefined); return m; },
      'POST images': () => { const name = body?.name ?? url.searchParams.get('name'); const image = { ...f.images[0], name, size_bytes: raw.length || 1e9, used_by: 0 }; f.images.push(image); f.emit('image', { image }); return image; },
      'DELETE images id': () => { f.images = f.images.filter((x) => x.name !== id); f.emit('image_deleted', { name: id }); return null; },
      'GET session': () => this.who,
      'GET users': () => ({ users: this.users }),
      'GET tokens': () => ({ tokens: this.tokens }),
      'GET cluster': () => f.cluster,
      'GET audit': () => ({ audit: f.audit }),
      'POST cluster tokens': () => { f.note('made join token j-1, good until 13:00'); return { token: 'lpmos-join-0001', expires_at: new Date(Date.now() + 3600e3).toISOString(), address: '10.77.1.1:4747' }; },
      'POST cluster transfer': () => f.member(body.to || 'n-2', (m) => { for (const x of f.cluster.members) x.leader = x === m; f.note(`node ${m.name} leads since term 5`, { by: '' }); }),
      'POST cluster promote': (x) => f.member(x, (m) => { m.voter = true; f.note(`gave node ${m.name} a vote`); }),
      'POST cluster demote': (x) => f.member(x, (m) => { m.voter = false; f.note(`took the vote of node ${m.name}`); }),
      'DELETE cluster': (x) => f.member(x, (m) => {
        if (m.voter && f.cluster.members.filter((y) => y.voter).length === 1) throw problem(409, `${m.name} is the last voter: promote another node first`);
        f.cluster.members = f.cluster.members.filter((y) => y !== m);
        f.emit('node_deleted', { id: m.id, name: m.name });
        f.note(`removed node ${m.name}`);
      }),
      'GET leases': () => ({ leases: [{ address: '10.77.0.9', state: 'resting', until: new Date(Date.now() + 6e5).toISOString(), node: 'n1', why: 'in use by card 52:54:00:ff:ff:09, which was not lent it' },
        { address: '10.77.0.150', state: 'lent', mac: '52:54:00:ff:ff:01', until: new Date(Date.now() + 36e5).toISOString(), node: 'n1' }] }),
      'GET network': () => ({ interfaces: [{ name: 'br0', mode: 'dhcp', address: '10.77.0.1/24', range: '10.77.0.100-10.77.0.199' }], counters: { dhcp_received: 812, dhcp_dropped_malformed: 2, tftp_reads: 40 }, sightings: [...f.machines.values()].slice(0, 40).flatMap((x) => [...x.sightings, ...x.timeline.map((m) => ({ at: m.at, mac: x.ids.macs[0], kind: m.source, text: m.text }))]).slice(0, 200),
        machines: [...[...f.machines.values()].slice(0, 8).map((x) => ({ mac: x.ids.macs[0], address: x.agent_ip, machine_id: x.id, name: x.name, at: x.timeline.at(-1).at, text: x.timeline.at(-1).text, stall: x.stall })), ...this.strangers] }),
      'GET wire id': () => { const x = [...f.machines.values()].find((y) => y.ids.macs.includes(id)) ?? this.strangers.find((y) => y.mac === id); if (!x) throw problem(404, `nothing was seen of ${id}`); return { mac: id, machine_id: x.machine_id ?? x.id, stall: x.stall, timeline: x.timeline }; },
    };
    const words = kind === 'cluster' ? (id === 'nodes' ? [deed] : [id]) : [id && 'id', verb];
    const answer = answers[[q.method, kind, ...words].filter(Boolean).join(' ')];
    if (!answer) throw problem(404, 'no such route');
    const out = answer(verb);
    s.writeHead(out === null ? 204 : 200, { 'Content-Type': 'application/json' });
    s.end(out === null ? undefined : JSON.stringify(out));
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const arg = (name, otherwise) => { const i = process.argv.indexOf(`--${name}`); return i > 0 ? Number(process.argv[i + 1]) : otherwise; };
  const node = new FakeNode({ machines: arg('machines', 24) });
  node.play(arg('step', 0.2));
  console.log(await node.listen(arg('port', 8088)));
}
