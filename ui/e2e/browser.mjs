// The one way the tests start Chromium: Debian's, headless, with nothing that
// talks to the outside.
import { chromium } from 'playwright-core';

/** @param {string[]} [more] */
export function launch(more = []) {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync', ...more],
  });
}
