"use strict";
// Recomputes the figures of a threshold from counts by score, and moves the marks of the charts.
(() => {
  const byId = (id) => document.getElementById(id);
  const source = byId("data");
  if (!source) return;
  const { sick, well, own, names } = JSON.parse(source.textContent);
  const steps = sick.length - 1;
  const range = byId("threshold"), number = byId("threshold-number"), prevalence = byId("prevalence");

  const fromTop = (counts) => {
    const sums = counts.slice();
    for (let step = steps - 1; step >= 0; step -= 1) sums[step] += sums[step + 1];
    return sums;
  };
  const sickAbove = fromTop(sick), wellAbove = fromTop(well);
  const share = (part, whole) => (whole > 0 ? part / whole : NaN);
  const shown = (value) => (Number.isFinite(value) ? value.toFixed(3) : "–");

  const plain = (threshold) => +threshold.toFixed(6);

  function cells(threshold) {
    if (plain(threshold) === plain(own.threshold)) return own; // exact, also between two steps
    const step = Math.round(threshold * steps);
    const tp = sickAbove[step], fp = wellAbove[step];
    return { threshold: step / steps, tp, fp, fn: sickAbove[0] - tp, tn: wellAbove[0] - fp };
  }

  function figures({ tp, fp, fn, tn }) {
    const sensitivity = share(tp, tp + fn), specificity = share(tn, tn + fp), common = prevalence.valueAsNumber / 100;
    const found = sensitivity * common, alarm = (1 - specificity) * (1 - common);
    const cleared = specificity * (1 - common), missed = (1 - sensitivity) * common;
    return {
      sensitivity, specificity, ppv: share(tp, tp + fp), npv: share(tn, tn + fn),
      "ppv-there": share(found, found + alarm), "npv-there": share(cleared, cleared + missed),
    };
  }

  function move(name, x, y) {
    const chart = byId(name);
    if (!chart) return;
    const { left, top, width, height } = chart.dataset;
    const mark = chart.querySelector(".mark"), here = Number.isFinite(x) && Number.isFinite(y);
    mark.classList.toggle("absent", !here);
    if (!here) return;
    mark.setAttribute("transform", `translate(${+left + width * x} ${+top + height * (1 - y)})`);
  }

  function show(threshold) {
    const at = cells(threshold), now = figures(at);
    for (const [name, value] of Object.entries(now)) byId(`live-${name}`).textContent = shown(value);
    for (const name of ["tp", "fp", "fn", "tn"]) byId(`live-${name}`).textContent = at[name].toLocaleString("en");
    byId("live").textContent = `At threshold ${plain(at.threshold)}: ` +
      `${at.tp} of ${at.tp + at.fn} “${names[1]}” found, ${at.fn} missed; ` +
      `${at.fp} of ${at.fp + at.tn} “${names[0]}” called “${names[1]}”.`;
    range.setAttribute("aria-valuetext", `${plain(at.threshold)}`);
    move("roc", 1 - now.specificity, now.sensitivity);
    move("pr", now.sensitivity, now.ppv);
    move("histogram", at.threshold, 0);
    return at.threshold;
  }

  let current = own.threshold;
  const choose = (value) => {
    if (Number.isFinite(value)) current = show(Math.min(1, Math.max(0, value)));
  };
  range.addEventListener("input", () => {
    choose(range.valueAsNumber);
    number.value = plain(current);
  });
  number.addEventListener("input", () => {
    choose(number.valueAsNumber);
    range.value = current;
  });
  number.addEventListener("change", () => { number.value = plain(current); });
  prevalence.addEventListener("input", () => {
    const valid = prevalence.valueAsNumber >= 0 && prevalence.valueAsNumber <= 100;
    prevalence.setAttribute("aria-invalid", String(!valid));
    if (valid) show(current);
  });
  byId("own").addEventListener("click", () => {
    choose(own.threshold);
    range.value = number.value = plain(own.threshold);
  });
  for (const fields of document.querySelectorAll("fieldset")) fields.disabled = false;
})();
