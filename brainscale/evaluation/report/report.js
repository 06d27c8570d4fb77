"use strict";
// Recomputes the metrics at a threshold from counts by score, and moves the marks of the charts.
(() => {
  const byId = (id) => document.getElementById(id);
  const source = byId("data");
  if (!source) return;
  const { with_tumour: withTumour, without_tumour: withoutTumour, own, names } = JSON.parse(source.textContent);
  const steps = withTumour.length - 1;
  const range = byId("threshold"), number = byId("threshold-number"), prevalence = byId("prevalence");

  const sumFromTop = (counts) => {
    const sums = counts.slice();
    for (let step = steps - 1; step >= 0; step -= 1) sums[step] += sums[step + 1];
    return sums;
  };
  const tumoursAbove = sumFromTop(withTumour), othersAbove = sumFromTop(withoutTumour);
  const share = (part, whole) => (whole > 0 ? part / whole : NaN);
  const format = (value) => (Number.isFinite(value) ? value.toFixed(3) : "–");
  const round = (threshold) => +threshold.toFixed(6);

  function countsAt(threshold) {
    if (round(threshold) === round(own.threshold)) return own; // exact, also between two steps
    const step = Math.round(threshold * steps);
    const tp = tumoursAbove[step], fp = othersAbove[step];
    return { threshold: step / steps, tp, fp, fn: tumoursAbove[0] - tp, tn: othersAbove[0] - fp };
  }

  function metricsOf({ tp, fp, fn, tn }) {
    const sensitivity = share(tp, tp + fn), specificity = share(tn, tn + fp);
    const tumours = prevalence.valueAsNumber / 100, others = 1 - tumours; // shares at the chosen prevalence
    const truePositive = sensitivity * tumours, falsePositive = (1 - specificity) * others;
    const trueNegative = specificity * others, falseNegative = (1 - sensitivity) * tumours;
    return {
      sensitivity, specificity, ppv: share(tp, tp + fp), npv: share(tn, tn + fn),
      "ppv-there": share(truePositive, truePositive + falsePositive),
      "npv-there": share(trueNegative, trueNegative + falseNegative),
    };
  }

  function moveMark(name, x, y) {
    const chart = byId(name);
    if (!chart) return;
    const { left, top, width, height } = chart.dataset;
    const mark = chart.querySelector(".mark"), defined = Number.isFinite(x) && Number.isFinite(y);
    mark.classList.toggle("absent", !defined);
    if (!defined) return;
    mark.setAttribute("transform", `translate(${+left + width * x} ${+top + height * (1 - y)})`);
  }

  function show(threshold) {
    const counts = countsAt(threshold), metrics = metricsOf(counts);
    for (const [name, value] of Object.entries(metrics)) byId(`live-${name}`).textContent = format(value);
    for (const name of ["tp", "fp", "fn", "tn"]) byId(`live-${name}`).textContent = counts[name].toLocaleString("en");
    byId("live").textContent = `At threshold ${round(counts.threshold)}: ` +
      `${counts.tp} of ${counts.tp + counts.fn} “${names[1]}” samples are classified correctly ` +
      `and ${counts.fn} are missed; ` +
      `${counts.fp} of ${counts.fp + counts.tn} “${names[0]}” samples are classified as “${names[1]}”.`;
    range.setAttribute("aria-valuetext", `${round(counts.threshold)}`);
    moveMark("roc", 1 - metrics.specificity, metrics.sensitivity);
    moveMark("pr", metrics.sensitivity, metrics.ppv);
    moveMark("histogram", counts.threshold, 0);
    return counts.threshold;
  }

  let current = own.threshold;
  const choose = (value) => {
    if (Number.isFinite(value)) current = show(Math.min(1, Math.max(0, value)));
  };
  range.addEventListener("input", () => {
    choose(range.valueAsNumber);
    number.value = round(current);
  });
  number.addEventListener("input", () => {
    choose(number.valueAsNumber);
    range.value = current;
  });
  number.addEventListener("change", () => { number.value = round(current); });
  prevalence.addEventListener("input", () => {
    const valid = prevalence.valueAsNumber >= 0 && prevalence.valueAsNumber <= 100;
    prevalence.setAttribute("aria-invalid", String(!valid));
    if (valid) show(current);
  });
  byId("own").addEventListener("click", () => {
    choose(own.threshold);
    range.value = number.value = round(own.threshold);
  });
  for (const fields of document.querySelectorAll("fieldset")) fields.disabled = false;
})();
