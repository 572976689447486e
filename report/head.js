// Live silencing: the head of the network, computed anew for one image without some of its units.
//
// head_data.js has the head: weight (R, N) and bias (R) of R classes, K, and how votes are ranked. A score is the sum of
// the K votes x * W that come first, and a bias. A silenced unit has x = 0, so the next vote takes the place of its own.
"use strict";
(() => {
  const data = headData;
  const floats = text => {
    const letters = atob(text), bytes = new Uint8Array(letters.length);
    for (let place = 0; place < letters.length; place++) bytes[place] = letters.charCodeAt(place);
    return new Float32Array(bytes.buffer);
  };
  const weight = floats(data.weight), bias = floats(data.bias);
  const count = data.units.length;  // N
  const rank = data.rule === "magnitude" ? Math.abs : vote => vote;
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const signed = value => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
  const percent = (value, digits = 1) => `${(100 * value).toFixed(digits)} %`;

  // --- the head -----------------------------------------------------------------------------------------------------

  // The votes (N) of one class's row.
  function votesOf(row, features) {
    const votes = new Float32Array(count);
    for (let unit = 0; unit < count; unit++) votes[unit] = features[unit] * weight[row * count + unit];
    return votes;
  }

  // The K units that a score is the sum of, the first in rank first.
  function chosen(votes, k) {
    if (k >= count) return [...votes.keys()].sort((one, other) => rank(votes[other]) - rank(votes[one]));
    const best = [];
    for (let unit = 0; unit < count; unit++) {
      const value = rank(votes[unit]);
      if (best.length === k && value <= rank(votes[best[k - 1]])) continue;
      let place = best.length;
      while (place > 0 && rank(votes[best[place - 1]]) < value) place--;
      best.splice(place, 0, unit);
      if (best.length > k) best.pop();
    }
    return best;
  }

  function scoreOf(row, features, k) {
    const votes = votesOf(row, features);
    let sum = 0;
    if (k >= count) for (const vote of votes) sum += vote;
    else for (const unit of chosen(votes, k)) sum += votes[unit];
    return sum + bias[row];
  }

  // Scores (R) and probabilities (R) of an image, and its classes by score.
  function answer(features, k) {
    const scores = data.classes.map((_, row) => scoreOf(row, features, k));
    const most = Math.max(...scores);
    const powers = scores.map(score => Math.exp(score - most));
    const total = powers.reduce((sum, power) => sum + power, 0);
    const probabilities = powers.map(power => power / total);
    const order = [...scores.keys()].sort((one, other) => scores[other] - scores[one]);
    return {scores, probabilities, order};
  }

  // --- features, in parts that are loaded when they are needed ------------------------------------------------------

  const parts = new Map();
  function load(part) {
    if (!parts.has(part)) parts.set(part, new Promise((resolve, reject) => {
      if (part in data.features) return resolve(floats(data.features[part]));
      const script = document.createElement("script");
      script.src = `features/${part}.js`;
      script.onload = () => resolve(floats(data.features[part]));
      script.onerror = () => reject(new Error(`features/${part}.js is missing`));
      document.head.append(script);
    }));
    return parts.get(part);
  }

  // --- a card -------------------------------------------------------------------------------------------------------

  class Card {
    constructor(card) {
      this.card = card;
      this.place = Number(card.dataset.order);
      this.row = data.classes.indexOf(data.images[this.place]);  // of the explained class
      this.k = data.topk;
      this.silent = new Set();  // units, from 0
      this.past = [];
      this.sliding = false;  // whether a drag of the slider has its one step in `past`
      this.table = card.querySelector("table.sum tbody");
      this.others = this.table.querySelector("[data-others]");
      this.panel = card.querySelector("[data-panel]");
      this.scale = (card.dataset.scale || "").split(" ").filter(Boolean).map(Number);  // of both networks of a card
      this.beside = [...card.querySelectorAll(".beside tbody .bar")].map(bar => {  // the other's bars: start and end of each
        const {left, width} = bar.firstElementChild.style, [low, high] = this.scale;
        const value = part => low + part / 100 * (high - low);
        return [bar, value(parseFloat(left)), value(parseFloat(left) + parseFloat(width))];
      });
      this.listed = this.table.querySelectorAll("tr[data-unit]").length;
      this.rule = {
        slider: this.panel.querySelector("[data-k]"),
        dense: this.panel.querySelector("[data-dense]"),
      };
    }

    async start() {
      const part = Math.floor(this.place / data.part), at = (this.place % data.part) * count;
      this.features = (await load(part)).subarray(at, at + count);
      this.said ??= answer(this.features, data.topk).order[0];  // the class that it predicts with nothing silenced
    }

    get heard() {
      const features = this.features.slice();
      for (const unit of this.silent) features[unit] = 0;
      return features;
    }

    // Change the silenced units or K at once, and remember what was before; the card follows when its features are there.
    change(silent, k = this.k) {
      const before = [this.silent, this.k], {link} = this;
      [this.silent, this.k] = [silent, k];
      this.sliding = false;
      if (this.link !== link) this.past.push(before);
      return this.start().then(() => this.show());
    }

    toggle(units, silence = !units.every(unit => this.silent.has(unit))) {
      const silent = new Set(this.silent);
      for (const unit of units) silence ? silent.add(unit) : silent.delete(unit);
      return this.change(silent);
    }

    slide(k) {
      if (!this.sliding) this.past.push([this.silent, this.k]);
      [this.sliding, this.k] = [true, k];
      return this.start().then(() => this.show());
    }

    undo() {
      [this.silent, this.k] = this.past.pop();
      this.sliding = false;
      return this.start().then(() => this.show());
    }

    get changed() {
      return this.silent.size > 0 || this.k !== data.topk;
    }

    show() {
      const features = this.heard, said = answer(features, this.k);
      this.showAnswer(said);
      this.showVotes(features);
      this.showRanking(said);
      this.showCurve(features);
      this.showControls();
    }

    showAnswer({scores, probabilities, order}) {
      const set = (name, text, value) => {
        const place = this.panel.querySelector(`[data-live="${name}"]`);
        place.textContent = text;
        place.dataset.value = value;
      };
      const [first, second] = order;
      set("prediction", data.names[first], data.classes[first]);
      set("score", scores[first].toFixed(4), scores[first]);
      set("probability", percent(probabilities[first], 2), probabilities[first]);
      if (second !== undefined)
        set("runner-up", `${data.names[second]} ${percent(probabilities[second])}`, data.classes[second]);
      this.panel.classList.toggle("turned", first !== this.said);
      this.card.classList.toggle("changed", this.changed);
    }

    // The rows of the sum: silenced units struck out, and those that took their places below.
    showVotes(features) {
      const votes = votesOf(this.row, features), own = chosen(votes, this.k), inScore = new Set(own);
      const total = own.reduce((sum, unit) => sum + Math.abs(votes[unit]), 0) || 1;
      const all = votes.reduce((sum, vote) => sum + Math.abs(vote), 0) || 1;
      const listed = [...this.table.querySelectorAll("tr[data-unit]")];
      for (const row of listed) {
        const unit = row.dataset.unit - 1;
        if (row.dataset.entered && !inScore.has(unit) && !this.silent.has(unit)) row.remove();
      }
      const there = new Set([...this.table.querySelectorAll("tr[data-unit]")].map(row => row.dataset.unit - 1));
      const most = this.listed + this.silent.size;
      for (const unit of own)
        if (!there.has(unit) && votes[unit] !== 0 && there.size < most) {
          there.add(unit);
          this.others.before(this.entered(unit));
        }
      const rows = [...this.table.querySelectorAll("tr[data-unit]")];
      const parts = rows.map(row => inScore.has(row.dataset.unit - 1) ? votes[row.dataset.unit - 1] : 0);
      const rest = own.filter(unit => !there.has(unit) && votes[unit] !== 0);
      const restSum = rest.reduce((sum, unit) => sum + votes[unit], 0);
      const score = scoreOf(this.row, features, this.k);
      const steps = [...parts, restSum, bias[this.row]];
      let sum = 0;
      const starts = steps.map(step => { const start = sum; sum += step; return start; });
      const before = votesOf(this.row, this.features);
      const silenced = rows.map(row => row.dataset.unit - 1).filter(unit => this.silent.has(unit)).map(unit => before[unit]);
      const ends = [0, score, ...this.scale, ...starts, ...starts.map((start, place) => start + steps[place]), ...silenced];
      const low = Math.min(...ends), high = Math.max(...ends, low + 1e-9);
      let far = 0;
      rows.forEach((row, place) => {
        const unit = row.dataset.unit - 1, vote = votes[unit];
        far += inScore.has(unit) ? 100 * Math.abs(vote) / total : 0;
        row.classList.toggle("silenced", this.silent.has(unit));
        row.classList.toggle("unused", !inScore.has(unit) && !this.silent.has(unit));
        const numbers = [signed(vote), `${(inScore.has(unit) ? 100 * Math.abs(vote) / total * Math.sign(vote) : 0).toFixed(1)} %`,
          `${far.toFixed(1)} %`, `${(100 * vote / all).toFixed(1)} %`];
        if (this.silent.has(unit))  // the vote that it had
          return this.fill(row, [signed(before[unit]), "", "", ""], 0, before[unit], low, high);
        this.fill(row, numbers, inScore.has(unit) ? starts[place] : 0, vote, low, high);
      });
      this.others.hidden = !rest.length;
      this.others.querySelector("b").textContent = `${rest.length} other unit${rest.length === 1 ? "" : "s"}`;
      const restShare = 100 * rest.reduce((sum, unit) => sum + Math.abs(votes[unit]), 0) / total;
      this.fill(this.others, [signed(restSum), `${restShare.toFixed(1)} %`, "100.0 %", ""], starts[rows.length], restSum, low, high);
      this.fill(this.table.querySelector("[data-bias]"), [signed(bias[this.row]), "", "", ""], starts[rows.length + 1],
        bias[this.row], low, high);
      this.fill(this.table.querySelector("[data-total]"), [signed(score), "", "", ""], 0, score, low, high);
      for (const [bar, start, end] of this.beside) this.lay(bar, start, end, low, high);
    }

    fill(row, numbers, start, value, low, high) {
      const bar = row.querySelector(".bar");
      bar.firstElementChild.classList.toggle("minus", value < 0);
      this.lay(bar, Math.min(start, start + value), Math.max(start, start + value), low, high);
      [...row.querySelectorAll("td:nth-child(n + 3)")].forEach((cell, place) => { cell.textContent = numbers[place]; });
      row.querySelector(".vote").classList.toggle("minus", value < 0);
    }

    // Lay a bar from start to end, on the scale from low to high.
    lay(bar, start, end, low, high) {
      const part = value => `${value / (high - low) * 100}%`;
      bar.style.setProperty("--zero", part(-low));
      bar.firstElementChild.style.left = part(start - low);
      bar.firstElementChild.style.width = part(end - start);
    }

    // A row for a unit that took the place of a silenced one.
    entered(unit) {
      const row = copyOf("row").firstElementChild;
      row.dataset.unit = unit + 1;
      row.dataset.entered = "yes";
      const link = row.querySelector("a");
      link.textContent = data.units[unit];
      link.href = `units.html#unit-${unit + 1}`;
      row.querySelector("small").textContent = `unit ${unit + 1} · moved up`;
      row.firstElementChild.append(...hushes(unit));
      if (!still.matches) row.classList.add("slides");
      return row;
    }

    showRanking({probabilities, order}) {
      const list = this.card.querySelector("[data-live=ranking]");
      [...list.children].forEach((line, place) => {
        const row = order[place];
        if (row === undefined) return;
        line.style.setProperty("--p", `${100 * probabilities[row]}%`);
        line.classList.toggle("true", String(data.classes[row]) === list.dataset.target);
        line.children[0].textContent = data.names[row];
        line.children[1].textContent = percent(probabilities[row]);
      });
    }

    // The probability of the explained class, while further units of the largest votes go silent.
    showCurve(features) {
      const line = this.card.querySelector("[data-live=curve]");
      if (!line) return;
      const steps = Number(line.dataset.steps), points = [];
      const order = chosen(votesOf(this.row, features), Math.max(steps, 1));
      const fewer = features.slice();
      for (let step = 0; step <= steps; step++) {
        if (step) fewer[order[step - 1]] = 0;
        const probability = answer(fewer, this.k).probabilities[this.row];
        points.push(`${(260 * step / steps).toFixed(1)},${(90 - 90 * probability).toFixed(1)}`);
      }
      line.setAttribute("points", points.join(" "));
    }

    showControls() {
      const names = [...this.silent].map(unit => {
        const number = `unit ${unit + 1}`;
        return data.units[unit] === number ? number : `${data.units[unit]} (${number})`;
      });
      const parts = names.length ? [`without ${names.slice(0, 6).join(", ")}${names.length > 6 ? ` and ${names.length - 6} more` : ""}`] : [];
      if (this.k !== data.topk) parts.push(this.k === count ? "with the dense rule" : `with K = ${this.k}`);
      this.panel.querySelector("[data-asked]").textContent = parts.join(", ") || "as it is";
      this.panel.querySelector("[data-undo]").disabled = !this.past.length;
      this.panel.querySelector("[data-reset]").disabled = !this.changed;
      this.panel.querySelector("[data-link]").href = this.link;
      this.rule.slider.value = this.k;
      this.rule.dense.checked = this.k === count;
      this.panel.querySelector("[data-k-shown]").textContent = this.k;
      for (const button of this.card.querySelectorAll("[data-silence]"))
        button.setAttribute("aria-pressed", this.silent.has(button.dataset.silence - 1));
      for (const button of this.card.querySelectorAll("[data-silence-concept]"))
        button.setAttribute("aria-pressed", concept(button.dataset.silenceConcept).every(unit => this.silent.has(unit)));
    }

    get link() {
      const asked = [];
      if (this.silent.size) asked.push(`silence=${[...this.silent].map(unit => unit + 1).join(",")}`);
      if (this.k !== data.topk) asked.push(`k=${this.k}`);
      return `#${this.card.id}${asked.length ? `?${asked.join("&")}` : ""}`;
    }
  }

  const unitsOf = Map.groupBy([...data.units.keys()], unit => data.units[unit]);
  const concept = name => unitsOf.get(name) || [];
  const templates = {};  // found once: the page may be long
  for (const name of ["tools", "hush", "row", "others"]) templates[name] = document.querySelector(`template[data-${name}]`).content;
  const copyOf = name => templates[name].cloneNode(true);

  // The buttons of a unit's row: silence it, and where several have its name, all of them.
  function hushes(unit) {
    const name = data.units[unit], one = copyOf("hush").firstElementChild;
    one.dataset.silence = unit + 1;
    one.setAttribute("aria-label", `silence unit ${unit + 1}`);
    if (concept(name).length < 2) return [one];
    const all = copyOf("hush").firstElementChild;
    all.dataset.silenceConcept = name;
    all.textContent = `all “${name}”`;
    return [one, all];
  }

  // Give a card its buttons and tools.
  function equip(card) {
    for (const row of card.querySelectorAll("table.sum tr[data-unit]"))
      row.querySelector("[data-silence]").replaceWith(...hushes(row.dataset.unit - 1));  // the page has it hidden
    if (!card.querySelector("[data-others]")) card.querySelector("[data-bias]").before(copyOf("others"));
    const panel = card.querySelector("[data-panel]");
    panel.append(copyOf("tools"));
    panel.querySelector("[data-link]").href = `#${card.id}`;
    panel.hidden = false;
  }

  // --- the page -----------------------------------------------------------------------------------------------------

  const cards = new Map();
  function cardOf(element) {
    const card = element.closest("article.card");
    if (!cards.has(card)) cards.set(card, new Card(card));
    return cards.get(card);
  }

  document.addEventListener("click", event => {
    const button = event.target.closest("[data-silence], [data-silence-concept], [data-undo], [data-reset], [data-add]");
    if (!button) return;
    const card = cardOf(button);
    if ("silence" in button.dataset) card.toggle([button.dataset.silence - 1]);
    else if ("silenceConcept" in button.dataset) card.toggle(concept(button.dataset.silenceConcept));
    else if ("undo" in button.dataset) card.undo();
    else if ("reset" in button.dataset) card.change(new Set(), data.topk);
    else add(card);
  });

  function add(card) {
    const box = card.panel.querySelector("[data-number]"), unit = Number(box.value);
    if (!Number.isInteger(unit) || unit < 1 || unit > count) return box.reportValidity();
    box.value = "";
    card.toggle([unit - 1], true);
  }

  document.addEventListener("keydown", event => {
    if (event.key === "Enter" && event.target.matches("[data-number]")) add(cardOf(event.target));
  });

  document.addEventListener("input", event => {
    if (event.target.matches("[data-k]")) cardOf(event.target).slide(Number(event.target.value));
  });
  document.addEventListener("change", event => {
    if (event.target.matches("[data-k]")) cardOf(event.target).sliding = false;
    if (event.target.matches("[data-dense]"))
      cardOf(event.target).change(cardOf(event.target).silent, event.target.checked ? count : data.topk);
  });

  // A link to a card, with the units that are silenced in it: #image-12?silence=44,101&k=3
  function follow() {
    const [id, query] = location.hash.slice(1).split("?");
    const element = query && document.getElementById(id);
    if (!element || !isCarried(element)) return;
    const asked = new URLSearchParams(query);
    const units = (asked.get("silence") || "").split(",").map(Number)
      .filter(unit => Number.isInteger(unit) && unit >= 1 && unit <= count);
    const k = Number(asked.get("k") || data.topk);
    const card = cardOf(element);
    card.change(new Set(units.map(unit => unit - 1)), k >= 1 && k <= count && data.adjustable ? Math.round(k) : data.topk);
    element.scrollIntoView();
  }

  // Whether the page carries the weights of a card's explained class. Elsewhere nothing can be asked.
  const isCarried = card => data.classes.includes(data.images[card.dataset.order]);

  for (const card of document.querySelectorAll("article.card"))
    if (isCarried(card)) equip(card);
  addEventListener("hashchange", follow);
  follow();
})();
