"""The pages in a browser: keys, search, filters, narrow and dark screens, print, and who cannot see them."""

from pathlib import Path

import pyarrow as pa
import pytest

from lr_ray.report.page import COMPARISON, PAGE, write_comparison, write_page
from lr_ray.run.store import Run
from tests.made_up import made_up
from tests.unit.page.dom import answers_in, by_id, read, said
from tests.unit.test_comparison import DEMO, compared

__all__ = ["compared"]  # a fixture

FIRST = "document.querySelector('.tokens')"
FOCUSED = "document.activeElement"
AT = f"[...{FIRST}.children].indexOf({FOCUSED})"
STEP = "document.querySelector('#step').textContent"
SHOWN = "document.querySelectorAll('#answers-list article').length"
COUNT = "document.querySelector('#answers-count').textContent"


def choose(page, name: str, value: str) -> None:
    """Sets a control of the answers as a person does."""
    page.evaluate(
        f"(() => {{ const c = document.querySelector('#answers-controls').elements['{name}']; c.value = '{value}';"
        " c.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def answers_shown(page):
    page.evaluate("document.querySelector('#answers').scrollIntoView()")
    page.wait(f"{COUNT} !== ''")


def test_a_page_opens_without_an_error_and_asks_no_network(opened):
    opened.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    answers_shown(opened)
    assert opened.errors == []


def test_one_token_of_a_trajectory_is_reached_by_tab_and_the_others_by_arrows(opened):
    reached = f"[...{FIRST}.children].filter((t) => t.tabIndex === 0).length"
    assert opened.evaluate(reached) == 1
    opened.evaluate("document.querySelector('#contrast-sort').focus()")
    opened.press("Tab")
    assert opened.evaluate(AT) == 0
    for key, place in (
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("ArrowLeft", 1),
        ("Home", 0),
        ("ArrowLeft", 0),
    ):
        opened.press(key)
        assert opened.evaluate(AT) == place
    opened.press("End")
    assert opened.evaluate(AT) == opened.evaluate(f"{FIRST}.children.length") - 1
    assert opened.evaluate(reached) == 1
    assert opened.errors == []


def test_up_and_down_walk_the_kept_steps_and_each_is_told(opened, page_file):
    kept = opened.evaluate(
        f"[...{FIRST}.children].flatMap((t, i) => t.classList.contains('kept') ? [i] : [])"
    )
    assert len(kept) > 2
    opened.evaluate(f"{FIRST}.children[0].focus()")
    told = []
    for place in [at for at in kept if at > 0]:
        opened.press("ArrowDown")
        assert opened.evaluate(AT) == place
        told.append(opened.evaluate(STEP))
        assert f"Step {place + 1}," in told[-1]
        assert ", kept." in told[-1]
    assert len(set(told)) == len(told)
    opened.press("ArrowUp")
    assert opened.evaluate(AT) == kept[-2]
    assert opened.evaluate("document.querySelector('#step').getAttribute('aria-live')") == "polite"


def test_what_is_told_of_a_step_is_what_the_page_holds(opened):
    place = opened.evaluate(
        f"[...{FIRST}.children].findIndex((t, i) => t.classList.contains('kept')"
        " && JSON.parse(document.querySelector('#contrast-data').textContent)[0][i].length > 2)"
    )
    opened.evaluate(f"{FIRST}.children[{place}].click()")
    rows = opened.evaluate(
        "[...document.querySelectorAll('#step tr')].map((r) => [...r.children].map((c) => c.textContent))"
    )
    details = opened.evaluate(
        f"JSON.parse(document.querySelector('#contrast-data').textContent)[0][{place}]"
    )
    assert rows[0] == ["token", "expert", "amateur", "label"]
    assert rows[-1][0] == "others"
    for row, (_, *shares) in zip(rows[1:-1], details[1:], strict=True):
        assert [float(cell.rstrip("%")) for cell in row[1:]] == pytest.approx(
            [100 * s for s in shares], abs=0.06
        )


def test_a_label_that_favours_the_last_part_of_a_character_favours_the_experts_own_token(opened):
    steps = opened.evaluate("JSON.parse(document.querySelector('#contrast-data').textContent)")
    row, place = next(
        (i, j)
        for i, found in enumerate(steps)
        for j, ((text, own), *rows) in enumerate(found)
        if text != rows[own][0] and rows[own][3] > 0.5
    )
    opened.evaluate(f"document.querySelectorAll('.tokens')[{row}].children[{place}].click()")
    said = opened.evaluate(STEP)
    assert "[part" in said  # as it reads alone
    assert "The label favours the expert's own token." in said


def test_trajectories_are_searched_and_sorted(opened):
    visible = "[...document.querySelectorAll('#trajectories article')].filter((a) => !a.hidden)"
    name = opened.evaluate(f"{visible}[3].querySelector('h3').textContent")
    opened.evaluate(
        f"(() => {{ const s = document.querySelector('#contrast-search'); s.value = '{name}';"
        " s.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    assert opened.evaluate(f"{visible}.map((a) => a.querySelector('h3').textContent)") == [name]
    assert opened.evaluate("document.querySelector('#contrast-count').textContent") == "1 shown"
    opened.evaluate(
        "(() => { const s = document.querySelector('#contrast-sort'); s.value = 'steps';"
        " s.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )
    lengths = opened.evaluate(
        "[...document.querySelectorAll('#trajectories article')].map((a) => +a.dataset.steps)"
    )
    assert lengths == sorted(lengths, reverse=True)


def test_answers_are_filtered_by_what_became_of_them_and_by_how_they_ended(opened, page_file):
    (task,) = answers_in(read(page_file.read_text()))
    answers_shown(opened)
    ends = {"cut": "length", "refused": "refused"}
    wanted = {k: sum(r[5][4] == e for r in task["rows"]) for k, e in ends.items()}
    verdicts = {
        "gained": (False, True),
        "lost": (True, False),
        "right": (True, True),
        "wrong": (False, False),
    }
    wanted |= {k: sum((r[4][2], r[5][2]) == v for r in task["rows"]) for k, v in verdicts.items()}
    wanted |= {"all": len(task["rows"]), "changed": wanted["gained"] + wanted["lost"]}
    assert 0 not in wanted.values()
    for kind, count in wanted.items():
        choose(opened, "kind", kind)
        opened.wait(f"{COUNT} === '{count} of {len(task['rows'])}'")
    choose(opened, "kind", "all")
    choose(opened, "search", "made-up/00007")
    opened.wait(f"{SHOWN} === 1")


def test_answers_are_shown_twenty_at_a_time_lost_ones_first_with_differences_marked(opened):
    answers_shown(opened)
    assert opened.evaluate("document.querySelector('#answers-list h3').textContent").startswith(
        "lost"
    )
    assert (
        opened.evaluate(
            "document.querySelectorAll('#answers-list article')[0].querySelectorAll('del, ins').length"
        )
        > 1
    )
    choose(opened, "kind", "all")
    opened.wait(f"{SHOWN} === 20")
    opened.evaluate("document.querySelector('#answers-more').click()")
    assert opened.evaluate(SHOWN) == 40
    assert opened.evaluate("document.querySelector('#answers-more').hidden")


def test_the_marked_words_and_the_others_make_up_each_answer(opened, page_file):
    rows = {r[0]: r for r in answers_in(read(page_file.read_text()))[0]["rows"]}
    answers_shown(opened)
    found = opened.evaluate(
        "[...document.querySelectorAll('#answers-list article')].map((a) => [a.querySelector('h3').textContent,"
        " ...[...a.querySelectorAll('pre')].map((p) => p.textContent)])"
    )
    for title, *texts in found:
        row = rows[title.split(": ")[-1]]
        assert texts == [row[4][0], row[5][0]]


def test_only_answers_that_scroll_are_stops_of_the_keyboard(opened):
    answers_shown(opened)
    answers = "[...document.querySelectorAll('#answers-list pre')]"
    stops = f"{answers}.map((p) => [p.scrollHeight > p.clientHeight, p.tabIndex === 0])"
    assert all(scrolls == stop for scrolls, stop in opened.evaluate(stops))
    opened.evaluate("document.styleSheets[0].insertRule('pre { max-height: 1rem !important; }')")
    choose(opened, "kind", "all")
    opened.wait(f"{SHOWN} === 20")
    assert all(all(both) for both in opened.evaluate(stops))


@pytest.mark.parametrize("dark", [False, True])
def test_a_narrow_screen_needs_no_scrolling_sideways(opened, page_file, dark):
    opened.look(400, 800, dark=dark)
    opened.open(page_file)
    answers_shown(opened)
    assert opened.evaluate("document.documentElement.scrollWidth") == 400
    colour = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, colour[4:-1].split(","))) < 200) == dark


def test_print_leaves_out_what_is_only_for_a_screen(opened):
    gone = "['nav', '.controls', '#step'].every((s) => getComputedStyle(document.querySelector(s)).display === 'none')"
    opened.evaluate(f"{FIRST}.children[0].focus()")
    assert not opened.evaluate(gone)
    opened.look(media="print", dark=True)
    assert opened.evaluate(gone)
    assert (
        opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    )


def test_without_scripts_the_texts_are_there(page_file):
    root = read(page_file.read_text())
    assert said(by_id(root, "answers-list"))
    assert not said(by_id(root, "step"))


@pytest.mark.parametrize("dark", [False, True])
def test_a_checker_finds_nothing_that_keeps_people_out(opened, page_file, axe, dark):
    opened.look(dark=dark)
    opened.open(page_file)
    answers_shown(opened)
    opened.evaluate(f"{FIRST}.children[0].focus()")
    opened.evaluate(axe + "; 0")
    found = opened.evaluate(
        "axe.run(document).then((r) => r.violations.map((v) => [v.impact, v.id, v.nodes.length]))"
    )
    assert [v for v in found if v[0] in ("serious", "critical")] == []


def test_lines_of_a_problem_stay_lines(tab, tmp_path):
    run = Run(str(tmp_path))
    summary = made_up(run, problems=4, trajectories=2)
    table, problem = run.answers("demo"), "Which?\n(A) one\n(B) two"
    place = table.schema.get_field_index("problem")
    run.write_table(
        "evaluation/demo.parquet", table.set_column(place, "problem", pa.array([problem] * 4))
    )
    write_page(run, summary)
    tab.look()
    tab.open(tmp_path / PAGE)
    answers_shown(tab)
    of = "[...document.querySelectorAll('.problem')]"
    assert set(tab.evaluate(f"{of}.map((p) => getComputedStyle(p).whiteSpace)")) == {"pre-wrap"}
    of = "[...document.querySelectorAll('#answers .problem')]"
    texts = tab.evaluate(f"{of}.map((p) => p.innerText).filter((text) => text)")
    assert set(texts) == {problem}
    assert len(texts) > 2


def test_right_to_left_text_runs_so_and_answers_are_shown_where_all_are_right(tab, tmp_path):
    run = Run(str(tmp_path))
    summary = made_up(run, problems=3, trajectories=3)
    answers = run.answers("demo")
    for name, values in {
        "problem": ["\u0643\u0645 3 + 4\u061f", "\u202eHow many?", "1?"],
        "expert_correct": [True] * 3,
        "improved_correct": [True] * 3,
    }.items():
        answers = answers.set_column(answers.column_names.index(name), name, pa.array(values))
    run.write_table("evaluation/demo.parquet", answers)
    write_page(run, summary)
    root = read((tmp_path / PAGE).read_text())
    assert "right by both: made-up/00000" in said(by_id(root, "answers-list"))  # without scripts
    tab.errors.clear()
    tab.look()
    tab.open(tmp_path / PAGE)
    answers_shown(tab)
    assert tab.evaluate(COUNT) == "3 of 3"
    style = "getComputedStyle(document.querySelector('#answers-list {}'))"
    for place in (".problem", "pre"):
        assert tab.evaluate(f"{style.format(place)}.unicodeBidi") == "plaintext"
    left = (
        "((e, r) => { r.selectNodeContents(e); return r.getBoundingClientRect().left"
        " - e.getBoundingClientRect().left; })(document.querySelector('#answers-list .problem'),"
        " document.createRange())"
    )
    assert tab.evaluate(left) > 100  # to the right of its line
    assert tab.errors == []


def test_the_main_table_of_a_comparison_stands_beside_its_page_on_a_screen(tab, compared):
    run, _, content = compared
    run.write_json("run.json", {"config": DEMO.model_dump(mode="json")})
    names = ("lightreasoner", "random-steps", "rejection-sampling", "prefilled-expert")
    rows = dict(zip(names, content["variants"].values(), strict=True))
    for row in rows.values():
        row["runs"] = row["runs"][:1]
        row["cost"] |= {"steps_kept": 123_456, "steps_kept_share": 0.136, "tokens_forward": 7.8e6}
    write_comparison(run, content | {"variants": rows}, {})
    tab.look(1100)
    tab.open(Path(run.path(COMPARISON)))
    wide = "document.querySelector('#comparison .wide')"
    assert tab.evaluate(f"{wide}.scrollWidth") <= tab.evaluate(f"{wide}.clientWidth")
