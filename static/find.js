// The search in what is loaded of the log: counts the lines that match, and goes from one to the next. It looks for a few milliseconds at a
// time, so that a hundred thousand lines do not keep the page waiting, and at new lines as they come.

import { bounds, firstInView, isWhole, mark, reveal, rowAt } from './log.js';

const SLICE_MS = 8;

const field = document.getElementById('find');

let needle = null;    // what is looked for; null: nothing
let found = [];       // the rows that match, in order
let current = null;   // the one that one is in
let tested = 0;       // rows from this number on were not looked at yet
let isLooking = false;

// What the log tells of its rows.
export const searchHooks = {
  changed(row) {
    if (!needle) return;
    if (row.number < tested) {
      const at = place(row.number);
      if (found[at] === row) found.splice(at, 1);
      if (matches(row)) found.splice(at, 0, row);
    }
    look();
  },
  prepended(rows) {
    if (!needle) return;
    found = rows.filter(matches).concat(found);
    look();
  },
  trimmed() {
    const [first] = bounds();
    found.splice(0, place(first));
    tested = Math.max(tested, first);
    if (current?.number < first) current = null;
    show();
  },
};

function matches(row) {
  // Not `test`: that would leave in the expression where the next look is to begin, for the marks, too.
  return !row.isMark && row.text.search(needle) >= 0;
}

// Where in `found` a row of this number is or would be.
function place(number) {
  let [low, high] = [0, found.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (found[middle].number < number) low = middle + 1;
    else high = middle;
  }
  return low;
}

function look() {
  if (isLooking) return;
  isLooking = true;
  setTimeout(() => {
    isLooking = false;
    if (!needle) return;
    const until = performance.now() + SLICE_MS;
    const [, end] = bounds();
    while (tested < end && performance.now() < until) {
      const row = rowAt(tested++);
      if (matches(row)) found.push(row);
    }
    show();
    if (tested < end) look();
  });
}

function counted() {
  const count = `${found.length.toLocaleString()}${tested < bounds()[1] ? '…' : ''}`;
  return current ? `${place(current.number) + 1} of ${count}` : `${count} line${count === '1' ? '' : 's'}`;
}

function show() {
  // "0 lines" must not sound as if it were of the whole log.
  const words = !needle ? '' : counted() + (isWhole() ? '' : ' · earlier ones not loaded');
  const output = document.getElementById('found');
  if (output.textContent !== words) output.textContent = words;
  for (const id of ['find-next', 'find-previous']) document.getElementById(id).disabled = !found.length;
}

function search() {
  needle = field.value ? new RegExp(field.value.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'), 'gi') : null;
  found = [];
  current = null;
  [tested] = bounds();
  mark(needle, null);
  show();
  if (needle) look();
}

function go(step) {
  if (!found.length) return;
  let at = place(current ? current.number : firstInView());
  // The one that it was in may have been written over since.
  if (step < 0 || found[at] === current) at += step;
  current = found[(at + found.length) % found.length];
  reveal(current);
  mark(needle, current);
  show();
  // The count changes with each line that comes, so only this is told.
  document.getElementById('announce').textContent = `${counted()}: ${current.text.slice(0, 200)}`;
}

field.addEventListener('input', search);
field.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter') return;
  event.preventDefault();
  go(event.shiftKey ? -1 : 1);
});
document.getElementById('find-next').addEventListener('click', () => go(1));
document.getElementById('find-previous').addEventListener('click', () => go(-1));
