import assert from 'node:assert/strict';
import { test } from 'node:test';
import { blank, bytes, contents, diskName, duration, memory, plural, rate, span, stamp, when } from '../text.js';

test('units are those people read', () => {
  for (const [n, want] of [[0, '0 B'], [999, '999 B'], [1000, '1.00 kB'], [8589934592, '8.59 GB'], [1920383410176, '1.92 TB'], [16000900661248, '16.0 TB'], [999999, '1.00 MB'], [412345678, '412 MB']]) assert.equal(bytes(n), want);
  assert.equal(memory(256 * 2 ** 30), '256 GiB');
  assert.equal(memory(1.5 * 2 ** 30), '1.5 GiB');
  assert.equal(memory(512 * 2 ** 20), '512 MiB');
  assert.equal(rate(0), '');
  assert.equal(rate(800), '100 MB/s');
  assert.equal(plural(1, 'disk', 'disks'), '1 disk');
  assert.equal(plural(1000, 'disk', 'disks'), '1,000 disks');
});

test('spans never run backwards', () => {
  for (const [ms, want] of [[-3000, '0 s'], [59_999, '59 s'], [60_000, '1 min'], [7_200_000, '2 h'], [90_000_000, '1 d']]) assert.equal(span(ms), want);
  assert.equal(duration(61_000), '1 min 1 s');
  assert.equal(duration(3_660_000), '1 h 1 min');
});

test('the zero time means never', () => {
  assert.ok(Number.isNaN(when('0001-01-01T00:00:00Z')));
  assert.ok(Number.isNaN(when(null)));
  assert.equal(stamp('0001-01-01T00:00:00Z', 0), '');
});

test('a disk is named by what is printed on it', () => {
  assert.equal(diskName({ size_bytes: 8589934592, model: 'QEMU HARDDISK', serial: 'LAB-1-D1' }), '8.59 GB QEMU HARDDISK LAB-1-D1');
  assert.equal(diskName({ size_bytes: 1e12, wwn: '0x5000c500' }), '1.00 TB 0x5000c500');
});

test('only a disk with nothing on it is blank', () => {
  assert.ok(blank({}));
  assert.ok(blank(null));
  for (const c of [{ table: 'gpt' }, { partitions: [{}] }, { signatures: ['zfs'] }, { marker: {} }, { unreadable: 'I/O error' }]) assert.ok(!blank(c), JSON.stringify(c));
  assert.equal(contents({ table: 'gpt', os: 'Windows', partitions: [{}, {}, {}, {}] }), 'Windows, 4 partitions');
  assert.equal(contents({ unreadable: 'I/O error' }), 'could not be read: I/O error');
});
