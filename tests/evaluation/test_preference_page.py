"""The page of a study: pairs, hidden names and sides; its script in Node where there is one, all of it in a browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from browser import Browser

from videopoet.cli import main
from videopoet.data.media import Media, write_media
from videopoet.evaluation.preference import page as pages
from videopoet.evaluation.preference.answers import read_answers, read_key
from videopoet.evaluation.preference.axes import AXES
from videopoet.evaluation.preference.page import key_path, render, write_page
from videopoet.evaluation.preference.study import build, first_is_left, hash32, order_for

AXIS_IDS = [axis.id for axis in AXES]
HOSTILE = "</script><script>document.title='broken'</script> {{script}} & <b>"
SCRIPT = Path(pages.__file__).with_name("order.js")


def clip(color: tuple[int, int, int], frames: int = 8) -> Media:
    video = np.zeros((frames, 48, 64, 3), np.uint8)
    for i in range(frames):
        video[i, 10:30, 4 + 5 * i : 20 + 5 * i] = color
    sound = np.sin(np.arange(frames * 2000) / 8)[None].astype(np.float32) * 0.3
    return Media(video=video, fps=8.0, audio=sound)


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> dict[str, Path]:
    """Two sets of three prompts (one of them hostile) and a third set of two."""
    root, folders = tmp_path_factory.mktemp("sets"), {}
    for number, name in enumerate(("red_model", "green_model", "blue_model")):
        folders[name] = root / name
        folders[name].mkdir()
        color = tuple(255 * (i == number) for i in range(3))
        prompts = ["a bar moves", HOSTILE, "шар катится"][: 2 if number == 2 else 3]
        for i, _ in enumerate(prompts):
            write_media(folders[name] / f"{name}_{i}.mp4", clip(color))
        rows = [{"file": f"{name}_{i}.mp4", "caption": prompt} for i, prompt in enumerate(prompts)]
        (folders[name] / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    write_media(folders["red_model"] / "alone.mp4", clip((9, 9, 9)))
    return folders


def two(sets) -> dict[str, Path]:
    return {name: sets[name] for name in ("red_model", "green_model")}


def test_pairs_are_the_common_prompts_of_each_two_sets(sets):
    study, alone = build(two(sets))
    assert len(study.pairs) == 3 and alone == {"red_model": 1, "green_model": 0}
    assert {pair.prompt for pair in study.pairs} == {"a bar moves", HOSTILE, "шар катится"}
    assert all({c.set for c in pair.clips} == {"red_model", "green_model"} for pair in study.pairs)
    assert len(build(sets)[0].pairs) == 3 + 2 + 2
    assert len(build(sets, against="blue_model")[0].pairs) == 4
    limited = build(sets, limit=1, seed=5)[0]
    assert len({pair.prompt for pair in limited.pairs}) == 1


def test_the_same_seed_gives_the_same_study_and_another_seed_other_names(sets):
    first, again, other = build(two(sets), seed=1)[0], build(two(sets), seed=1)[0], build(two(sets), seed=2)[0]
    assert first.id == again.id != other.id
    assert not {p.id for p in first.pairs} & {p.id for p in other.pairs}
    assert not {c.id for p in first.pairs for c in p.clips} & {c.id for p in other.pairs for c in p.clips}


@pytest.mark.parametrize(
    "names, more, cause",
    [(["red_model"], {}, "1 set of videos: a comparison needs two"), ([], {}, "0 set"),
     (["red_model", "green_model"], {"against": "pink"}, "no set is called 'pink'"),
     (["red_model", "green_model"], {"limit": 0}, "a study of 0 prompts")],
)  # fmt: skip
def test_what_makes_no_study(sets, names, more, cause):
    with pytest.raises(ValueError, match=cause):
        build({name: sets[name] for name in names}, **more)


def test_nothing_in_common_is_refused(sets, tmp_path):
    write_media(tmp_path / "other-0.mp4", clip((1, 2, 3)))
    with pytest.raises(ValueError, match=r"'red_model' and 'b' have no prompt in common .*'other'"):
        build({"red_model": sets["red_model"], "b": tmp_path})


def test_sides_and_order_are_drawn_for_every_rater():
    """Half of the pairs each way, independent of the rater's name and of each other; the same again for the same rater."""
    pairs = [f"pair{i}" for i in range(400)]
    sides = {rater: [first_is_left("study", rater, pair) for pair in pairs] for rater in ("ann", "ben", "ünal")}
    assert all(160 < sum(side) < 240 for side in sides.values())  # 400 fair coins: sd 10
    assert 140 < sum(a == b for a, b in zip(sides["ann"], sides["ben"])) < 260
    orders = {rater: order_for("study", rater, pairs) for rater in ("ann", "ben")}
    assert sorted(orders["ann"]) == sorted(pairs) and orders["ann"] != orders["ben"] != pairs
    assert order_for("study", "ann", pairs[::-1]) == orders["ann"]


def test_the_page_tells_nothing(sets, tmp_path):
    study, _ = build(two(sets))
    write_page(study, tmp_path / "study")
    text = (tmp_path / "study/index.html").read_text()
    for secret in ("red_model", "green_model", str(tmp_path), str(sets["red_model"])):
        assert secret not in text
    names = sorted(path.name for path in (tmp_path / "study/media").iterdir())
    assert len(names) == 6 and all(re.fullmatch(r"[0-9a-f]{16}\.mp4", name) for name in names)
    assert [pair.id for pair in study.pairs] == sorted(
        pair.id for pair in study.pairs
    )  # not in the order of the prompts
    key = json.loads((tmp_path / "study.key.json").read_text())
    assert {owner for pair in key["pairs"] for owner in pair["clips"].values()} == {"red_model", "green_model"}
    assert read_key(tmp_path / "study.key.json").study == study.id
    assert "http" not in text.replace('http-equiv="', "")  # nothing from elsewhere


def test_prompts_stay_text(sets):
    study, _ = build(two(sets))
    text = render(study, {c.id: "media/x.mp4" for p in study.pairs for c in p.clips})
    assert text.count("</script>") == 2 and HOSTILE not in text
    embedded = re.search(r'<script type="application/json" id="study">(.*?)</script>', text, re.S)[1]
    assert HOSTILE in {pair["prompt"] for pair in json.loads(embedded)["pairs"]}


def test_a_page_is_never_written_over_another(sets, tmp_path, monkeypatch):
    study, _ = build(two(sets))
    write_page(study, tmp_path / "one.html")
    assert key_path(tmp_path / "one.html") == tmp_path / "one.key.json" and (tmp_path / "one.key.json").is_file()
    assert (tmp_path / "one.html").read_text().count("data:video/mp4;base64,") == 6
    with pytest.raises(ValueError, match="is there already: name another"):
        write_page(study, tmp_path / "one.html")
    with pytest.raises(ValueError, match="does not exist: make it first"):
        write_page(study, tmp_path / "absent" / "study")
    monkeypatch.setattr(pages, "MAX_SINGLE", 1000)
    with pytest.raises(ValueError, match="in one file: write a folder"):
        write_page(study, tmp_path / "big.html")
    assert not (tmp_path / "big.html").exists() and not (tmp_path / "big.key.json").exists()


def node(code: str):
    """What a piece of JavaScript with `order.js` as `o` makes of its input, in Node."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("no Node on the PATH: the page's own logic is then tested in the browser alone")
    source = f"const o = require({json.dumps(str(SCRIPT))}); console.log(JSON.stringify((() => {{ {code} }})()))"
    result = subprocess.run([program, "-e", source], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_known_hashes():
    """FNV-1a of "" is 0x811c9dc5 and of "foobar" 0xbf9cf968; the finaliser of 0x811c9dc5 by hand."""
    value = 0x811C9DC5
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        value = (value ^ (value >> shift)) * factor % 2**32
    assert hash32("") == value ^ (value >> 16)
    assert len({hash32(f"x{i}") for i in range(5000)}) == 5000


def test_page_and_analysis_draw_alike():
    texts = ["", "a", "side|s|ann|p1", "Ünal 😀", "x" * 300]
    assert node(f"return {json.dumps(texts)}.map(o.hash32)") == [hash32(text) for text in texts]
    pairs = [f"p{i}" for i in range(30)]
    assert node(f"return o.orderFor('s', 'Ünal', {json.dumps(pairs)})") == order_for("s", "Ünal", pairs)
    sides = node(f"return {json.dumps(pairs)}.map((p) => o.firstIsLeft('s', 'ann', p))")
    assert sides == [first_is_left("s", "ann", pair) for pair in pairs]


def test_only_whole_answers_are_given_out():
    whole = dict.fromkeys(AXIS_IDS, "left")
    state = {
        "started": "2026-01-01T00:00:00Z",
        "position": 2,
        "answers": {
            "p1": {"left": "a", "right": "b", "choices": whole, "seconds": 2},
            "p2": {"left": "a", "right": "c", "choices": {AXIS_IDS[0]: "left"}, "seconds": 1},
            "p3": {"left": "a", "right": "c", "choices": whole | {AXIS_IDS[1]: "both"}, "seconds": 1},
        },
    }
    given = node(f"return o.toAnswers('s', 'ann', {json.dumps(state)}, {json.dumps(AXIS_IDS)})")
    assert [answer["pair"] for answer in given["answers"]] == ["p1"] and given["rater"] == "ann"
    assert node("return ['{', 'null', '{}', '[]', '{\"answers\": {}, \"position\": 1}'].map(o.restore)") == [
        None, None, None, None, {"answers": {}, "position": 1}]  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = Browser.find()
    if isinstance(found, str):
        pytest.skip(found)
    made = Browser(*found, downloads=tmp_path_factory.mktemp("downloads"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def study_page(sets, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("study") / "study"
    folders = [f"{name}={folder}" for name, folder in two(sets).items()]
    main(["preference", "page", "--set", folders[0], "--set", folders[1], "--out", str(out), "--title", "Which & <b>?"])
    return out


def start(browser: Browser, page: Path, rater: str) -> None:
    browser.open(page.as_uri())
    browser.run("document.getElementById('rater').value = ''")
    browser.click("#rater")
    browser.press(*rater, "Enter")
    browser.wait("return !document.getElementById('rate').hidden || !document.getElementById('done').hidden")


PLAYING = """return ['left', 'right'].map((id) => document.getElementById(id))
  .every((video) => video.readyState >= 2 && video.videoWidth === 64)"""
COUNT = "return document.getElementById('count').textContent"
CHECKED = "return [...document.querySelectorAll('#questions :checked')].map((input) => input.id)"


@pytest.mark.browser
def test_a_rater_with_a_keyboard_alone_from_start_to_file(browser, study_page, tmp_path):
    """Starts, rates all by keys, closes in between, saves; the file is what the analysis reads."""
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    browser.devtools("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)})
    start(browser, study_page / "index.html", "ann 1")
    assert browser.run("return document.title") == "Which & <b>?"
    key = read_key(key_path(study_page))
    order = order_for(key.study, "ann 1", list(key.clips))
    seen = []
    for number, pair in enumerate(order):
        browser.wait(PLAYING)
        assert browser.run(COUNT) == f"Pair {number + 1} of 3"
        assert browser.run("return document.getElementById('prompt').textContent") == key.prompts[pair]
        assert browser.run("return document.getElementById('next').disabled")
        seen.append(
            browser.run("return ['left', 'right'].map((id) => document.getElementById(id).src.split('/').pop())")
        )
        assert browser.run("return document.activeElement.id") == "text_fidelity-left"
        browser.press("Enter")  # too early: nothing happens
        assert browser.run(COUNT) == f"Pair {number + 1} of 3"
        browser.press("1", "3", "2", "1", "3")
        assert browser.run(CHECKED) == [
            f"{a}-{c}" for a, c in zip(AXIS_IDS, ("left", "right", "same", "left", "right"))
        ]
        if number == 1:  # closed and opened again: the answers are there, and the rater goes on where it was
            browser.open(study_page.joinpath("index.html").as_uri())
            assert browser.run("return document.getElementById('rater').value") == "ann 1"
            browser.click("#start-form button")
            browser.wait("return !document.getElementById('rate').hidden")
            assert browser.run(COUNT) == "Pair 2 of 3" and len(browser.run(CHECKED)) == 5
            browser.press("n")
        else:
            assert browser.run("return document.activeElement.id") == "next"
            browser.press("Enter")
    browser.wait("return !document.getElementById('done').hidden")
    assert "3 of 3 pairs are answered." in browser.run("return document.getElementById('summary').textContent")
    browser.click("#download")
    saved = downloads / f"answers-{key.study}-ann_1.json"
    for _ in range(100):
        if saved.is_file() and saved.stat().st_size:
            break
        browser.run("return new Promise((done) => setTimeout(done, 100))")
    votes = read_answers([saved], key)
    assert len(votes) == 15 and {vote.rater for vote in votes} == {"ann 1"}
    for pair, (left, right) in zip(order, seen):
        expected = [c if first_is_left(key.study, "ann 1", pair) else d for c, d in zip((left, right), (right, left))]
        first = sorted(key.clips[pair])  # a pair's clips stand in the order of their names
        assert [f"{clip}.mp4" for clip in first] == expected
        own = {vote.axis: vote for vote in votes if vote.pair == pair}
        assert own["text_fidelity"].preferred == key.clips[pair][left.removesuffix(".mp4")]
        assert own["motion_interestingness"].preferred is None and own["motion_realism"].side == "left"
    assert browser.run("return document.title") == "Which & <b>?"  # the hostile prompt ran nothing
    assert browser.complaints() == []


@pytest.mark.browser
def test_mouse_buttons_back_sound_and_playing(browser, study_page):
    start(browser, study_page / "index.html", "mouse")
    browser.wait(PLAYING)
    state = "return ['left', 'right'].map((id) => document.getElementById(id)[arguments[0]])"
    assert browser.run(state, "muted") == [True, True]
    browser.wait("return ['left', 'right'].every((id) => !document.getElementById(id).paused)")
    browser.click("#play")
    assert browser.run(state, "paused") == [True, True]
    browser.press("p")
    browser.wait("return ['left', 'right'].every((id) => !document.getElementById(id).paused)")
    browser.click("#sound")
    assert browser.run(state, "muted") == [False, True]
    browser.press("m")
    assert browser.run(state, "muted") == [True, False]
    browser.click("#shortcuts")  # single keys can be turned off (WCAG 2.1.4)
    browser.press("m")
    assert browser.run(state, "muted") == [True, False]
    browser.click("#shortcuts")
    for axis in AXIS_IDS:
        browser.click(f"label:has(#{axis}-same)")
    browser.click("#next")
    assert browser.run(COUNT) == "Pair 2 of 3" and browser.run(CHECKED) == []
    browser.click("#back")
    assert browser.run(COUNT) == "Pair 1 of 3" and browser.run(CHECKED) == [f"{axis}-same" for axis in AXIS_IDS]
    browser.wait("return document.getElementById('left').currentTime > 0.3")
    browser.wait("return document.getElementById('left').currentTime < 0.3")  # both ended: from the start again
    assert browser.complaints() == []


@pytest.mark.browser
@pytest.mark.parametrize("size", [(1200, 900), (360, 640), (320, 568)])
def test_it_fits_and_says_what_everything_is(browser, study_page, size):
    """No sideways scrolling on any screen; every control has a name, a group its question, and room for a finger."""
    browser.resize(*size)
    start(browser, study_page / "index.html", f"size {size[0]}")
    browser.wait(PLAYING)
    wide = browser.run("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide[0] <= wide[1] == size[0]
    nameless = browser.run(
        "return [...document.querySelectorAll('button, input, video, progress')].filter((e) => "
        "!(e.textContent.trim() || e.ariaLabel || [...(e.labels ?? [])].some((l) => l.textContent.trim()))).map((e) => e.id)"
    )
    assert nameless == []
    assert browser.run(
        "return [...document.querySelectorAll('fieldset')].every((f) => f.firstElementChild.tagName === 'LEGEND')"
    )
    assert browser.run("return document.documentElement.lang") == "en"
    small = browser.run(
        "return [...document.querySelectorAll('#rate button, .choices label')]"
        ".filter((e) => e.getBoundingClientRect().height < 40).map((e) => e.textContent)"
    )
    assert small == []
    seen = browser.run("return document.getElementById('left').getBoundingClientRect().width")
    assert seen > 100
    browser.run("document.activeElement.blur(); window.scrollTo(0, document.body.scrollHeight)")
    for axis in AXIS_IDS:  # what gets the focus is in sight, not under the videos that stay in view (WCAG 2.4.11)
        seen = browser.run(
            "const input = document.getElementById(arguments[0]); input.focus();"
            "const box = input.getBoundingClientRect();"
            "return document.elementFromPoint((box.left + box.right) / 2, (box.top + box.bottom) / 2)?.id",
            f"{axis}-left",
        )
        assert seen == f"{axis}-left"
    browser.devtools("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.browser
def test_one_file_plays_and_a_broken_video_can_be_skipped(browser, sets, tmp_path):
    study, _ = build(two(sets), seed=3)
    write_page(study, tmp_path / "one.html")
    start(browser, tmp_path / "one.html", "single")
    browser.wait(PLAYING)
    assert browser.complaints() == []
    write_page(study, tmp_path / "folder")
    for path in (tmp_path / "folder/media").iterdir():
        path.write_bytes(b"no video")
    start(browser, tmp_path / "folder/index.html", "broken")
    browser.wait("return document.getElementById('next').textContent === 'Skip'")
    assert "cannot be played here" in browser.run("return document.getElementById('status').textContent")
    for _ in study.pairs:
        browser.wait(
            "return document.getElementById('next').textContent === 'Skip' && !document.getElementById('next').disabled"
        )
        browser.click("#next")
    browser.wait("return !document.getElementById('done').hidden")
    assert "0 of 3 pairs are answered, 3 are open." in browser.run(
        "return document.getElementById('summary').textContent"
    )
