"""The statistics of paired comparisons against published and exact values, and answers that are refused."""

import json
import math

import numpy as np
import pytest

from videopoet.cli import main
from videopoet.evaluation.preference import statistics as st
from videopoet.evaluation.preference.analysis import analyse
from videopoet.evaluation.preference.answers import ANSWERS_FORMAT, read_answers, read_key
from videopoet.evaluation.preference.study import KEY_FORMAT

AXES = ["text_fidelity", "motion_realism"]


@pytest.mark.parametrize(
    "successes, n, low, high",
    [(8, 10, 0.4901625, 0.9433178), (0, 10, 0.0, 0.2775328), (10, 10, 0.7224672, 1.0), (50, 100, 0.4038315, 0.5961685)],
)
def test_wilson(successes, n, low, high):
    """As R's binom::binom.confint(x, n, methods = "wilson") and the closed forms at the ends: 1.9599^2/(n + 1.9599^2)."""
    assert st.wilson(successes, n) == pytest.approx((low, high), abs=1e-6)
    assert st.wilson(0, 10)[1] == pytest.approx(1.959963985**2 / (10 + 1.959963985**2))
    mirrored = st.wilson(n - successes, n)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-6)


def test_wilson_covers():
    """Of 4,000 samples of 30 at p = 0.9 the interval holds p in 95 % (Wald's in 90 %); and nothing is known of none."""
    draws = np.random.default_rng(0).binomial(30, 0.9, 4000)
    held = np.mean([low <= 0.9 <= high for low, high in (st.wilson(k, 30) for k in draws)])
    assert 0.93 < held < 0.985 and st.wilson(0, 0) == (0.0, 1.0)


def test_sign_test_is_exact():
    assert st.sign_test(9, 1) == 22 / 1024 and st.sign_test(1, 9) == 22 / 1024
    assert st.sign_test(5, 5) == 1.0 and st.sign_test(0, 0) == 1.0 and st.sign_test(8, 0) == 2 / 256
    chance = sum(math.comb(20, k) / 2**20 for k in range(21) if st.sign_test(k, 20 - k) <= 0.05)
    assert chance <= 0.05  # never more often wrong than it says


def test_holm():
    assert st.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert st.holm([0.5, 0.9]) == [1.0, 1.0] and st.holm([]) == []


def test_bradley_terry_of_two_is_the_ratio_of_wins():
    strengths = st.bradley_terry(np.array([[0, 3.0], [1.0, 0]]))
    assert strengths == pytest.approx([math.sqrt(3), 1 / math.sqrt(3)])
    assert np.diff(st.elo(strengths)) == pytest.approx(-400 * math.log10(3)) and st.elo(strengths).mean() == 1500


def test_bradley_terry_finds_the_strengths_that_made_the_wins():
    """Expected wins of known strengths give them back; the likelihood equations hold on any wins."""
    truth = np.array([4.0, 1.0, 0.5, 0.5])
    truth /= np.exp(np.log(truth).mean())
    wins = 60 * truth[:, None] / (truth[:, None] + truth[None, :])
    np.fill_diagonal(wins, 0)
    wins[0, 3] = wins[3, 0] = 0  # not every two met
    assert st.bradley_terry(wins) == pytest.approx(truth, rel=1e-6)
    wins = np.random.default_rng(1).integers(1, 30, (5, 5)).astype(float)
    np.fill_diagonal(wins, 0)
    p = st.bradley_terry(wins)
    expected = ((wins + wins.T) * p[:, None] / (p[:, None] + p[None, :])).sum(1)
    assert expected == pytest.approx(wins.sum(1), rel=1e-6)


@pytest.mark.parametrize("wins", [[[0, 3], [0, 0]], [[0, 2, 0, 0], [2, 0, 0, 0], [0, 0, 0, 2], [0, 0, 2, 0]],
                                  [[0, 1, 1], [1, 0, 1], [0, 0, 0]]])  # fmt: skip
def test_no_finite_strengths(wins):
    """One never lost; two circles that never met; one never won."""
    assert st.bradley_terry(np.array(wins, float)) is None


KRIPPENDORFF = """
* * * * * 3 4 1 2 1 1 3 3 * 3
1 * 2 1 3 3 4 3 * * * * * * *
* * 2 1 3 4 4 * 2 1 1 3 3 * 4
"""


def test_krippendorff_on_his_own_example():
    """Three coders, 15 units, gaps: 0.691 nominal and 0.811 interval (as printed in his and Wikipedia's worked example)."""
    rows = [line.split() for line in KRIPPENDORFF.strip().splitlines()]
    units = {str(i): [float(row[i]) for row in rows if row[i] != "*"] for i in range(15)}
    assert st.krippendorff(units) == pytest.approx(0.691, abs=5e-4)
    assert st.krippendorff(units, st.interval) == pytest.approx(0.811, abs=5e-4)


def test_krippendorff_at_the_ends():
    assert st.krippendorff({"a": [1, 1], "b": [0, 0, 0]}) == 1.0
    assert st.krippendorff({"a": [1], "b": [0]}) is None and st.krippendorff({"a": [1, 1]}) is None
    rng = np.random.default_rng(0)
    assert abs(st.krippendorff({str(i): list(rng.integers(0, 3, 4)) for i in range(800)})) < 0.05


def test_bootstrap_knows_that_answers_about_one_prompt_are_alike():
    """20 raters who all say the same of each of 12 prompts know 12 things, not 240: Wilson's interval is far too narrow."""
    rng = np.random.default_rng(3)
    score = np.repeat(rng.integers(0, 2, 12)[None].astype(float), 20, axis=0)
    low, high = st.bootstrap(score, np.ones_like(score))
    naive = st.wilson(score.sum(), score.size)
    assert high - low > 3 * (naive[1] - naive[0])
    assert st.bootstrap(score, np.ones_like(score)) == (low, high)  # drawn by a seed
    assert st.bootstrap(np.ones((4, 5)), np.ones((4, 5))) == (1.0, 1.0)
    missing = np.ones((3, 4))
    missing[0, 1:] = 0  # a rater who answered once
    assert 0 <= st.bootstrap(missing * 0.5, missing)[0] <= st.bootstrap(missing * 0.5, missing)[1] <= 1


def key_of(sets=("ours", "theirs"), prompts=12) -> dict:
    matches = [(a, b) for i, a in enumerate(sets) for b in sets[i + 1 :]]
    pairs = [
        {"pair": f"{a}-{b}-{i}", "prompt": f"prompt {i}", "index": 0, "clips": {f"{a}{i}": a, f"{b}{i}": b}}
        for a, b in matches
        for i in range(prompts)
    ]
    return {
        "format": KEY_FORMAT,
        "study": "study1",
        "title": "",
        "seed": 0,
        "sets": list(sets),
        "axes": AXES,
        "pairs": pairs,
    }


def answer_of(pair: dict, winner: str | None, swap: bool) -> dict:
    """What the page writes when a rater prefers `winner`; swap: the sides changed."""
    clips = list(pair["clips"])[:: -1 if swap else 1]
    sides = dict(zip((pair["clips"][clip] for clip in clips), ("left", "right")))
    choices = dict.fromkeys(AXES, "same" if winner is None else sides[winner])
    return {"pair": pair["pair"], "left": clips[0], "right": clips[1], "choices": choices, "seconds": 12.5}


def answers_of(key: dict, rater: str, prefer) -> dict:
    answers = [answer_of(pair, prefer(i, pair), swap=(i + len(rater)) % 2 == 0) for i, pair in enumerate(key["pairs"])]
    return {
        "format": ANSWERS_FORMAT,
        "study": key["study"],
        "rater": rater,
        "axes": AXES,
        "started": "",
        "answers": answers,
    }


@pytest.fixture
def write(tmp_path):
    def write(name: str, data) -> str:
        path = tmp_path / name
        path.write_text(data if isinstance(data, str) else json.dumps(data))
        return path

    return write


def analysed(write, key, raters: dict) -> dict:
    known = read_key(write("s.key.json", key))
    return analyse(
        known, read_answers([write(f"{r}.json", answers_of(key, r, p)) for r, p in raters.items()], known), draws=300
    )


def test_what_is_preferred_is_found_whatever_the_sides(write):
    """Ours in 9 of 12 prompts, about the same in one, by three raters who agree but for one prompt."""

    def prefer(i, pair, odd=None):
        return None if i == 11 else "theirs" if i in (0, 1) or i == odd else "ours"

    key = key_of()
    report = analysed(write, key, {"a": prefer, "bb": prefer, "c": lambda i, pair: prefer(i, pair, odd=5)})
    row = report["comparisons"][0]
    assert (row["first"], row["second"], row["axis"], row["answers"]) == ("ours", "theirs", "text_fidelity", 36)
    assert row["preferred"] == {"first": 26, "same": 3, "second": 7}
    assert row["share"] == 26 / 33 and row["share_wilson_95"] == list(st.wilson(26, 33))
    assert row["score"] == pytest.approx((26 + 1.5) / 36)
    assert row["score_bootstrap_95"][0] < row["score"] < row["score_bootstrap_95"][1]
    assert row["sign_test"]["prompts_for_first"] == 9 and row["sign_test"]["prompts_for_second"] == 2
    assert row["sign_test"]["p"] == st.sign_test(9, 2) and row["sign_test"]["p_holm"] == 2 * row["sign_test"]["p"]
    strength = report["strengths"][0]["elo"]
    assert strength["ours"] - strength["theirs"] == pytest.approx(400 * math.log10(27.5 / 8.5), abs=1e-3)
    agreement = report["agreement"]["text_fidelity"]
    assert agreement["pairs_with_two_answers"] == 12 and agreement["same_answer"] == pytest.approx(34 / 36)
    assert 0.7 < agreement["alpha_nominal"] < 1 and abs(report["left"]["share"] - 0.5) < 0.2
    assert report["warnings"] == []


def test_several_sets_are_ranked(write):
    """Of three sets the better wins two of three times: the ranking and its distances come back."""
    key = key_of(("best", "middle", "worst"), prompts=9)
    order = {"best": 0, "middle": 1, "worst": 2}

    def prefer(i, pair):
        return sorted(pair["clips"].values(), key=order.get)[0 if i % 3 else 1]

    report = analysed(write, key, dict.fromkeys(("a", "b", "c"), prefer))
    strength = report["strengths"][0]
    assert strength["elo"]["best"] > strength["elo"]["middle"] > strength["elo"]["worst"]
    assert strength["elo"]["middle"] == pytest.approx(1500) and len(report["comparisons"]) == 3 * len(AXES)
    for name, (low, high) in strength["elo_bootstrap_95"].items():
        assert low <= strength["elo"][name] <= high


def test_a_set_that_never_lost_has_no_finite_strength(write):
    report = analysed(write, key_of(), dict.fromkeys("abc", lambda i, pair: "ours"))
    assert report["strengths"][0]["elo"] is None and "never lost" in report["strengths"][0]["cause"]
    assert report["comparisons"][0]["share"] == 1.0 and report["comparisons"][0]["share_wilson_95"][0] < 0.95


def test_odd_raters_are_named(write):
    key = key_of(prompts=20)
    lazy = answers_of(key, "lazy", lambda i, pair: None)
    for answer in lazy["answers"]:
        answer["seconds"] = 0.5
    lazy["answers"] = lazy["answers"][:15]
    known = read_key(write("s.key.json", key))
    said = analyse(known, read_answers([write("lazy.json", lazy)], known), draws=10)["warnings"]
    assert said[0].startswith("1 rater:") and "rater 'lazy' gave the same answer (same) all 30 times" in said
    assert "rater 'lazy' spent under 3 seconds on 15 of 15 pairs" in said and said[-1].startswith("5 of 20 pairs")


def changed(path: list, value) -> dict:
    """Good answers with one thing changed; value `...` removes it."""
    data = answers_of(key_of(), "ann", lambda i, pair: "ours")
    place = data
    for step in path[:-1]:
        place = place[step]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return data


@pytest.mark.parametrize(
    "data, cause",
    [("{", "not JSON"), ("[]", "its format is 'list'"), ('{"format": "x"}', "its format is 'x'"),
     ('{"format": 1, "format": 2}', "a name stands twice"), ('{"a": NaN}', "NaN is no number"), ("[" * 5000, "not JSON"),
     (changed(["study"], "study2"), "answers study 'study2', the key is of 'study1'"),
     (changed(["rater"], "  "), '"rater" is'), (changed(["rater"], 7), '"rater" is 7'),
     (changed(["answers"], {}), '"answers" must be a list'), (changed(["answers"], []), "no answer in any"),
     (changed(["answers", 3], "x"), "answer 3: needs an object, not str"),
     (changed(["answers", 3, "pair"], "other"), "answer 3: the study has no pair 'other'"),
     (changed(["answers", 3, "pair"], ["x"]), "answer 3: the study has no pair"),
     (changed(["answers", 3, "left"], "ours4"), "does not show 'ours4'"),
     (changed(["answers", 3, "left"], {}), "does not show"),
     (changed(["answers", 3, "choices"], ...), "answer 3: answers None"),
     (changed(["answers", 3, "choices", "motion_realism"], ...), r"answers \['text_fidelity'\], the questions are"),
     (changed(["answers", 3, "choices", "beauty"], "left"), "the questions are"),
     (changed(["answers", 3, "choices", "motion_realism"], "both"), "motion_realism is 'both', one of left, same, right"),
     (changed(["answers", 3, "choices", "motion_realism"], ["left"]), r"motion_realism is \['left'\]"),
     (changed(["answers", 3, "seconds"], -1), '"seconds" is -1'), (changed(["answers", 3, "seconds"], "1"), '"seconds" is'),
     (changed(["answers", 3], answers_of(key_of(), "ann", lambda i, p: None)["answers"][2]), "here and in .*answer 2")],
)  # fmt: skip
def test_bad_answers_are_refused_with_their_cause(data, cause, write):
    key = read_key(write("s.key.json", key_of()))
    with pytest.raises(ValueError, match=cause):
        read_answers([write("answers.json", data)], key)


def test_the_same_file_twice_is_refused(write):
    key = read_key(write("s.key.json", key_of()))
    path = write("a.json", changed(["rater"], "ann"))
    with pytest.raises(ValueError, match="rater 'ann' answers pair ours-theirs-0 here and in"):
        read_answers([path, path], key)


@pytest.mark.parametrize(
    "path", [["pairs"], ["sets"], ["axes"], ["study"], ["pairs", 0, "clips"], ["pairs", 0, "prompt"]]
)
def test_damaged_keys_are_refused(path, write):
    key = key_of()
    place = key
    for step in path[:-1]:
        place = place[step]
    del place[path[-1]]
    with pytest.raises(ValueError, match="is not a key of this program"):
        read_key(write("s.key.json", key))
    key = key_of()
    key["pairs"][0]["clips"] = {"x": "ours", "y": "ours"}
    with pytest.raises(ValueError, match="does not have a clip of each of two sets"):
        read_key(write("s.key.json", key))


def test_the_command_prints_and_writes(write, tmp_path, capsys):
    key = key_of(("best", "middle", "worst"), prompts=4)
    files = [write(f"{r}.json", answers_of(key, r, lambda i, p: sorted(p["clips"].values())[i % 2])) for r in "ab"]
    out = tmp_path / "report.json"
    main(["preference", "analyse", str(write("s.key.json", key)), *map(str, files), "--out", str(out), "--draws", "50"])
    said = capsys.readouterr().out
    assert "2 raters, 4 prompts, 12 pairs, 48 answers" in said and "Elo" in said and "note: 2 raters" in said
    assert json.loads(out.read_text())["study"] == "study1"
    with pytest.raises(SystemExit, match="2"):
        main(["preference", "analyse", str(tmp_path / "s.key.json"), str(tmp_path / "absent.json")])
    assert "absent.json: no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "texts, cause", [(["ours"], "needs a name and a folder"), (["a=x", "a=y"], "the name 'a' is taken")]
)
def test_sets_are_named(texts, cause, capsys, tmp_path):
    with pytest.raises(SystemExit, match="2"):
        main(
            ["preference", "page", "--out", str(tmp_path / "x"), *(part for text in texts for part in ("--set", text))]
        )
    assert cause in capsys.readouterr().err
