import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { backoff, matcher, Socket, Store } from '../feed.js';

// The same files the Go tests of the API write: one difference shows both ends.
const fixture = (name) => JSON.parse(readFileSync(new URL(`fixtures/${name}.json`, import.meta.url), 'utf8'));
const filled = () => {
  const s = new Store(() => 0);
  s.take(fixture('snapshot'));
  return s;
};
const rowOf = (s, name) => [...s.rows.values()].find((r) => r.name === name);
const names = (s, q, sort = '') => s.lines(q, sort).filter((l) => l.key).map((l) => l.name);

test('every machine is a row, and so is a task whose machine has not been seen', () => {
  const snap = fixture('snapshot'), s = filled();
  const lone = snap.tasks.filter((t) => !t.machine_id);
  assert.ok(lone.length > 0);
  assert.equal(s.rows.size, snap.machines.length + lone.length);
  assert.equal(s.find(lone[0].id).task.id, lone[0].id);
});

test('the counters agree with the node', () => {
  const s = filled();
  const { stats, tasks } = fixture('snapshot');
  const n = s.counts();
  for (const [phase, count] of Object.entries(stats.machines)) {
    const lone = tasks.filter((t) => !t.machine_id && t.phase === phase).length;
    assert.equal(n[phase], count + lone, phase);
  }
  assert.equal(n.needs, stats.needs_you);
});

test('what needs a person comes first', () => {
  const heads = filled().lines('', '').filter((l) => !l.key);
  assert.deepEqual(heads.map((x) => x.group), ['needs', 'fresh', 'working', 'rest']);
  assert.equal(heads.reduce((sum, x) => sum + x.n, 0), filled().rows.size);
});

test('the search looks where it is told', () => {
  const s = filled();
  const waiting = names(s, 'state:waiting');
  assert.ok(waiting.length > 0 && waiting.every((n) => rowOf(s, n).phase === 'waiting'));
  assert.deepEqual(names(s, 'STATE:waiting,failed').length, s.counts().waiting + s.counts().failed);
  assert.deepEqual(names(s, 'web-1'), ['web-1']);
  assert.deepEqual(names(s, '52:54:00:12:00:01').map((n) => rowOf(s, n).machine.id), ['m-01']);
  assert.deepEqual(names(s, 'mac:52:54:00:12:00:01').length, 1);
  assert.equal(names(s, '-state:waiting').length, s.rows.size - waiting.length);
  assert.equal(names(s, 'needs:you').length, s.counts().needs);
  assert.deepEqual(names(s, 'no such machine'), []);
  assert.equal(names(s, 'state:').length, s.rows.size, 'a half-typed filter hides nothing');
  assert.ok(matcher('<img src=x>')({ words: 'a <img src=x> b' }));
});

test('sorting turns round', () => {
  const s = filled();
  assert.deepEqual(names(s, '', 'name'), names(s, '', '-name').reverse());
});

test('progress touches one row and no order', () => {
  const s = filled();
  const t = fixture('snapshot').tasks.find((x) => x.phase === 'installing' && x.machine_id && s.find(x.machine_id).phase === 'installing');
  const row = s.find(t.machine_id), shape = s.shape, version = row.version;
  s.take({ type: 'progress_batch', items: [{ task_id: t.id, machine_id: t.machine_id, phase: 'installing', phase_text: 'downloading 44 %', progress: { stage: 'downloading', percentage: 44.5, details: { speed_mbps: 800 } } }] });
  assert.equal(row.percent, 44.5);
  assert.equal(row.says, 'downloading 44 %');
  assert.equal(s.shape, shape);
  assert.ok(row.version > version);
  assert.equal(row.bar, 44.5);
});

test('a written disk keeps a full bar until its system comes up', () => {
  const s = filled();
  assert.equal(rowOf(s, 'written').bar, 100);
  assert.equal(rowOf(s, 'web-1').bar, null);
});

test('a task that finds its machine stops being a row', () => {
  const s = filled();
  const t = fixture('snapshot').tasks.find((x) => !x.machine_id);
  const m = fixture('snapshot').machines[0];
  s.take({ type: 'status', index: 200, task: { ...t, machine_id: m.id, phase: 'waiting', phase_text: 'waits for you to approve' }, machine: { ...m, task_id: t.id, phase: 'waiting' } });
  assert.equal(s.rows.get(`t/${t.id}`), undefined);
  assert.equal(s.find(m.id).task.id, t.id);
  assert.equal(s.find(m.id).phase, 'waiting');
  assert.equal(s.index, 200);
});

test('what is deleted goes', () => {
  const s = filled(), n = s.rows.size;
  s.take({ type: 'machine_deleted', machine_id: 'm-01', index: 198 });
  assert.equal(s.rows.size, n - 1);
  const image = fixture('snapshot').images[0].name;
  s.take({ type: 'image_deleted', name: image, index: 199 });
  s.take({ type: 'node_deleted', id: 'n-3', name: 'n3', index: 200 });
  assert.deepEqual(s.nodes.map((x) => x.id), ['n-1', 'n-2']);
  assert.ok(!s.images.has(image));
});

test('the cluster is as the node told it last', () => {
  const s = filled();
  assert.equal(s.cluster.leader, 'n-1');
  assert.equal(s.cluster.quorum, true);
  s.take({ type: 'cluster', cluster: fixture('cluster-cut-off') });
  assert.equal(s.cluster.quorum, false);
  assert.ok(s.cluster.problem.includes('majority'));
  s.take({ type: 'audit', audit: { what: 'removed node n3' } });
  assert.equal(s.cluster.quorum, false, 'other frames leave it');
  s.take({ ...fixture('snapshot'), cluster: undefined });
  assert.equal(s.cluster, null, 'a node of no cluster has none');
});

test('a new snapshot keeps the rows people look at', () => {
  const s = filled();
  const before = s.find('m-01');
  s.take({ ...fixture('snapshot'), index: 500 });
  assert.equal(s.find('m-01'), before);
});

test('ages go by the clock of the node', () => {
  const s = new Store(() => Date.parse('1970-01-01T00:00:05Z'));
  s.take({ type: 'hello', time: '2026-03-14T12:00:00Z' });
  assert.equal(s.now(), Date.parse('2026-03-14T12:00:00Z'));
});

test('waits double from half a second to fifteen, and half is chance', () => {
  assert.equal(backoff(0, () => 1), 500);
  assert.equal(backoff(0, () => 0), 250);
  assert.equal(backoff(4, () => 1), 8000);
  assert.equal(backoff(50, () => 1), 15000);
});

const last = fixture('snapshot').index;

/** A socket whose far end the test is. */
function wired() {
  const store = new Store(() => 0), opened = [], timers = [];
  const socket = new Socket(store, {
    open: (path) => { const ws = { path, sent: [], send: (m) => ws.sent.push(JSON.parse(m)), close: () => ws.onclose?.() }; opened.push(ws); return ws; },
    later: (f, ms) => { timers.push({ f, ms }); return timers.length; }, random: () => 1, online: () => true,
  });
  const say = (f) => opened.at(-1).onmessage({ data: JSON.stringify(f) });
  return { store, socket, opened, timers, say };
}

test('the socket is live once it has the whole picture, and says what is looked at', () => {
  const { socket, opened, say } = wired();
  socket.connect();
  assert.equal(opened[0].path, '/ws');
  say({ type: 'hello', node: 'n1', time: '2026-03-14T12:00:00Z' });
  assert.equal(socket.link, 'catching');
  socket.show(['m-01']);
  assert.deepEqual(opened[0].sent, []);
  say(fixture('snapshot'));
  assert.equal(socket.link, 'live');
  assert.deepEqual(opened[0].sent, [{ type: 'subscribe', rows: ['m-01'] }]);
});

test('a cut socket comes back after a wait and asks for what it missed', () => {
  const { socket, opened, timers, say } = wired();
  socket.connect();
  say({ type: 'hello', node: 'n1' });
  say(fixture('snapshot'));
  opened[0].onclose();
  assert.equal(socket.link, 'reconnecting');
  const { f, ms } = timers.at(-1);
  assert.equal(ms, 500);
  f();
  assert.equal(opened[1].path, `/ws?since=${last}`);
  say({ type: 'hello', node: 'n1' });
  assert.equal(socket.link, 'catching');
  say({ type: 'resumed', index: last });
  assert.equal(socket.link, 'live');
  assert.equal(socket.store.rows.size, filled().rows.size);
});

test('waking up tries at once, and a dead socket is noticed', () => {
  const { socket, opened, timers, say } = wired();
  socket.connect();
  say({ type: 'hello' });
  say(fixture('snapshot'));
  opened[0].onclose();
  socket.nudge();
  assert.equal(opened.length, 2);
  say({ type: 'hello' });
  say({ type: 'resumed', index: last });
  socket.nudge();
  assert.deepEqual(opened[1].sent.at(-1), { type: 'ping' });
  timers.at(-1).f();
  assert.equal(socket.link, 'reconnecting');
});

test('a node that says nothing is asked, and given up if it does not answer', () => {
  const { store, socket, opened, timers, say } = wired();
  let now = 0;
  store.clock = () => now;
  socket.connect();
  say({ type: 'hello' });
  say(fixture('snapshot'));
  now = 9000;
  socket.listen();
  assert.equal(opened[0].sent.at(-1).type, 'subscribe', 'a short silence is nothing');
  now = 11000;
  socket.listen();
  assert.deepEqual(opened[0].sent.at(-1), { type: 'ping' });
  say({ type: 'pong' });
  timers.at(-1).f();
  assert.equal(socket.link, 'live', 'it has answered');
  now = 22000;
  socket.listen();
  timers.at(-1).f();
  assert.equal(socket.link, 'reconnecting');
});

test('an old figure does not find a lost machine', () => {
  const s = filled(), row = rowOf(s, 'lost');
  assert.equal(row.phase, 'lost');
  s.take({ type: 'progress_batch', items: [{ task_id: row.task.id, machine_id: row.machine.id, phase: 'installing', phase_text: 'downloading 43 %', progress: { stage: 'downloading', percentage: 43, details: {} } }] });
  assert.equal(row.phase, 'lost');
  s.take({ type: 'machine', index: 198, machine: { ...row.machine, phase: 'installing', phase_text: 'downloading 44 %', lost: false } });
  assert.equal(row.phase, 'installing');
});
