// The page itself: shows pairs, takes answers, keeps them. What needs no screen is in `order.js`.
(() => {
  const study = JSON.parse(document.getElementById("study").textContent);
  const axes = study.axes.map((axis) => axis.id);
  const byId = Object.fromEntries(study.pairs.map((pair) => [pair.id, pair]));
  const at = (id) => document.getElementById(id);
  const [left, right] = [at("left"), at("right")];
  const SOUNDS = ["none", "left", "right"];
  let rater = null, state = null, order = [], since = 0, sound = "none", broken = false, remembers = true;

  const store = {
    read(key) { try { return localStorage.getItem(key); } catch (error) { remembers = false; return null; } },
    write(key, text) { try { localStorage.setItem(key, text); } catch (error) { remembers = false; } },
  };
  const save = () => store.write(storageKey(study.study, rater), JSON.stringify(state));
  const say = (text) => { at("status").textContent = text; };
  const pairNow = () => byId[order[state.position]];
  const numRated = () => toAnswers(study.study, rater, state, axes).answers.length;

  function show(section) {
    for (const name of ["start", "rate", "done"]) at(name).hidden = name !== section;
    at("footer").hidden = section === "start";
    at("storage-note").hidden = remembers;
    if (section !== "rate") for (const video of [left, right]) video.pause();
  }

  function begin(name) {
    rater = name;
    state = restore(store.read(storageKey(study.study, rater)));
    state ??= { started: new Date().toISOString(), position: 0, answers: {} };
    store.write(storageKey(study.study, ""), rater);
    order = orderFor(study.study, rater, study.pairs.map((pair) => pair.id));
    state.position = Math.min(Math.max(0, state.position), order.length);
    save();
    render();
  }

  function render() {
    if (state.position >= order.length) return finish();
    show("rate");
    const pair = pairNow();
    const clips = firstIsLeft(study.study, rater, pair.id) ? pair.clips : [...pair.clips].reverse();
    const known = state.answers[pair.id];
    state.answers[pair.id] = {
      left: clips[0].id, right: clips[1].id, choices: known ? known.choices : {}, seconds: known ? known.seconds : 0,
    };
    broken = false;
    at("prompt").textContent = pair.prompt;
    [left, right].forEach((video, i) => { video.src = clips[i].src; });
    setSound("none");
    for (const axis of axes) {
      for (const choice of CHOICES) at(`${axis}-${choice}`).checked = state.answers[pair.id].choices[axis] === choice;
    }
    at("progress").max = order.length;
    at("progress").value = numRated();
    at("count").textContent = `Pair ${state.position + 1} of ${order.length}`;
    at("back").disabled = state.position === 0;
    say(`Pair ${state.position + 1} of ${order.length}`);
    since = Date.now();
    update();
    focusOn(axes.find((axis) => !state.answers[pair.id].choices[axis]) ?? axes[0]);
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) at("play").textContent = "Play";
    else replay();
  }

  function update() {
    const complete = isComplete(state.answers[pairNow().id].choices, axes);
    at("next").disabled = !complete && !broken;
    at("next").textContent = broken && !complete ? "Skip" : "Next";
  }

  function focusOn(axis) {
    const checked = CHOICES.map((choice) => at(`${axis}-${choice}`)).find((input) => input.checked);
    (checked ?? at(`${axis}-left`)).focus({ preventScroll: false });
  }

  function answer(axis, choice) {
    state.answers[pairNow().id].choices[axis] = choice;
    at(`${axis}-${choice}`).checked = true;
    save();
    update();
  }

  function answerByKey(choice) {
    const group = document.activeElement?.closest("fieldset");
    const choices = state.answers[pairNow().id].choices;
    const axis = group?.dataset.axis ?? axes.find((each) => !choices[each]) ?? axes.at(-1);
    answer(axis, choice);
    const following = axes[axes.indexOf(axis) + 1] ?? axes.find((each) => !choices[each]);
    if (following) focusOn(following);
    else at("next").focus();
  }

  function leave(step) {
    const pair = pairNow();
    if (pair) {
      const known = state.answers[pair.id];
      known.seconds = Math.round(10 * (known.seconds + (Date.now() - since) / 1000)) / 10;
    }
    state.position = Math.max(0, state.position + step);
    save();
    render();
  }

  const next = () => { if (!at("next").disabled) leave(1); };
  const back = () => { if (state.position > 0) leave(-1); };

  function play() {
    if (left.ended || right.ended) for (const video of [left, right]) video.currentTime = 0; // together again
    for (const video of [left, right]) video.play().catch(() => {});
    at("play").textContent = "Pause";
  }

  function pause() {
    for (const video of [left, right]) video.pause();
    at("play").textContent = "Play";
  }

  function replay() {
    for (const video of [left, right]) video.currentTime = 0;
    play();
  }

  function setSound(which) {
    sound = which;
    for (const video of [left, right]) {
      video.muted = video.id !== sound;
      video.parentElement.classList.toggle("sounding", !video.muted);
    }
    at("sound").textContent = `Sound: ${sound}`;
  }

  const turnSound = () => setSound(SOUNDS[(SOUNDS.indexOf(sound) + 1) % SOUNDS.length]);

  function finish() {
    show("done");
    const rated = numRated();
    const open = order.length - rated;
    at("summary").textContent = `${rated} of ${order.length} pairs are answered` +
      (open ? `, ${open} are open. ` : ". ") + "Save them as a file and send it to whoever asked you.";
    say("All pairs are done");
    at("done-title").focus();
  }

  function download() {
    const answers = toAnswers(study.study, rater, state, axes);
    const file = new Blob([JSON.stringify(answers, null, 2) + "\n"], { type: "application/json" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(file);
    link.download = `answers-${study.study}-${rater.replace(/[^A-Za-z0-9_-]+/g, "_")}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    say(`${answers.answers.length} answers are in ${link.download}`);
  }

  function element(tag, text, properties = {}) {
    const made = Object.assign(document.createElement(tag), properties);
    if (text) made.textContent = text;
    return made;
  }

  function question(axis) {
    const group = element("fieldset");
    group.dataset.axis = axis.id;
    const legend = element("legend");
    legend.append(element("b", axis.title), axis.question);
    const choices = element("div", "", { className: "choices" });
    for (const [choice, words] of [["left", "Left"], ["same", "About the same"], ["right", "Right"]]) {
      const label = element("label");
      label.append(element("input", "", { type: "radio", name: axis.id, id: `${axis.id}-${choice}`, value: choice }), words);
      choices.append(label);
    }
    group.append(legend, choices);
    group.addEventListener("change", (event) => answer(axis.id, event.target.value));
    return group;
  }

  const KEYS = {
    1: () => answerByKey("left"), 2: () => answerByKey("same"), 3: () => answerByKey("right"), n: next, b: back,
    p: () => (left.paused && right.paused ? play() : pause()), r: replay, m: turnSound,
  };

  function onKey(event) {
    if (at("rate").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" && event.target.tagName !== "BUTTON") { event.preventDefault(); return next(); }
    const act = at("shortcuts").checked ? KEYS[event.key.toLowerCase()] : null;
    if (act && !event.repeat) { event.preventDefault(); act(); }
  }

  at("num-pairs").textContent = String(study.pairs.length);
  for (const axis of study.axes) {
    at("axes").append(element("dt", axis.title), element("dd", axis.question));
    at("questions").append(question(axis));
  }
  at("start-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = at("rater").value.trim();
    if (name) begin(name);
  });
  at("questions").addEventListener("submit", (event) => event.preventDefault());
  for (const [id, act] of Object.entries({
    play: KEYS.p, replay, sound: turnSound, next, back, download, "download-now": download,
    review: () => { state.position = 0; save(); render(); }, "change-rater": () => { show("start"); at("rater").focus(); },
  })) at(id).addEventListener("click", act);
  for (const video of [left, right]) {
    video.addEventListener("ended", () => { if (left.ended && right.ended) replay(); });
    video.addEventListener("error", () => {
      broken = true;
      update();
      say(`The ${video.id} video cannot be played here: skip this pair, and tell whoever asked you.`);
    });
  }
  document.addEventListener("keydown", onKey);
  at("rater").value = store.read(storageKey(study.study, "")) ?? "";
  store.write("videopoet-preference", "1"); // whether it can be kept is said before the start
  show("start");
})();
