// What the page decides without a screen: order, sides, and what an answer is. `study.py` computes the same hash.
"use strict";

const CHOICES = ["left", "same", "right"];
const ANSWERS_FORMAT = "videopoet-preference-answers/1";

function hash32(text) {
  let value = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) value = Math.imul(value ^ byte, 0x01000193);
  value = Math.imul(value ^ (value >>> 16), 0x85ebca6b);
  value = Math.imul(value ^ (value >>> 13), 0xc2b2ae35);
  return (value ^ (value >>> 16)) >>> 0;
}

function orderFor(study, rater, pairs) {
  const keyed = pairs.map((pair) => [hash32(`order|${study}|${rater}|${pair}`), pair]);
  keyed.sort((a, b) => a[0] - b[0] || (a[1] < b[1] ? -1 : 1));
  return keyed.map((entry) => entry[1]);
}

function firstIsLeft(study, rater, pair) {
  return hash32(`side|${study}|${rater}|${pair}`) % 2 === 0;
}

function isComplete(choices, axes) {
  return axes.every((axis) => CHOICES.includes(choices[axis]));
}

// Only whole answers are given out: a pair with a question left open is not rated yet.
function toAnswers(study, rater, state, axes) {
  const rated = Object.entries(state.answers).filter(([, answer]) => isComplete(answer.choices, axes));
  return {
    format: ANSWERS_FORMAT,
    study,
    rater,
    axes,
    started: state.started,
    answers: rated.map(([pair, answer]) => ({ pair, ...answer })),
  };
}

function storageKey(study, rater) {
  return `videopoet-preference:${study}:${rater}`;
}

// What was stored, or nothing if it is damaged or of another study.
function restore(text) {
  try {
    const state = JSON.parse(text);
    if (state && typeof state.answers === "object" && typeof state.position === "number") return state;
  } catch (error) {
    // falls through: a damaged store is as good as none
  }
  return null;
}

if (typeof module !== "undefined") {
  module.exports = { hash32, orderFor, firstIsLeft, isComplete, toAnswers, storageKey, restore };
}
