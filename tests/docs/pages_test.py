#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Opens the pages that the program writes in Chromium: their pictures show, nothing is fetched, the console is silent.

Each page is looked at light and dark, wide and narrow, without its script and on paper. A new page is one more entry of
PAGES. Skipped where there is no Chromium. With a fourth argument, pictures of all of it are left in that folder.

Usage: pages_test.py SUPPORT BUILD SCRATCH [PICTURES]
"""
from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
import typing

sys.path.insert(0, sys.argv[1])
from chromium import Chromium, find_chromium  # noqa: E402
from other_python import skip  # noqa: E402

WIDTHS = (1400, 800)
ARROW_DOWN, ENTER = 40, 13

SIZES = """(selector) => [...document.querySelectorAll(selector)].filter((one) => one.checkVisibility())
  .map((one) => { const box = one.getBoundingClientRect(); return [box.width, box.height]; })"""


@dataclasses.dataclass
class Page:
    name: str
    commands: list[str]  # of the shell; $BUILD is the build folder. They write the file `name` where they run
    pictures: list[str]  # selectors of what must be there and have a size
    tries: typing.Callable[[Chromium, "Judge"], None] | None = None  # further checks of the light page, wide and narrow
    without_script: list[str] = dataclasses.field(default_factory=list)


class Judge:
    def __init__(self) -> None:
        self.place = ""
        self.problems: list[str] = []
        self.checks = 0

    def expect(self, condition: object, text: str) -> None:
        self.checks += 1
        if not condition:
            self.problems.append(f"{self.place}: {text}")

    def expect_visible(self, browser: Chromium, selectors: list[str]) -> None:
        for selector in selectors:
            sizes = browser.evaluate(f"({SIZES})({selector!r})")
            self.expect(sizes, f"nothing that is visible matches '{selector}'")
            empty = [size for size in sizes if max(size) < 1]  # a level line has no height
            self.expect(not empty, f"'{selector}': {len(empty)} of {len(sizes)} have no size")


def try_compare(browser: Chromium, judge: Judge) -> None:
    """Filters, modules, histogram and scale of the page of `compare`."""
    rows = "[...document.querySelectorAll('tr.row')].filter((row) => !row.hidden)"
    count = lambda: browser.evaluate(rows + ".length")  # noqa: E731
    said = lambda: browser.evaluate("document.querySelector('.panel output').textContent")  # noqa: E731
    every = count()
    judge.expect(every == int(browser.evaluate("document.documentElement.dataset.drawn")), "not all rows are drawn")
    judge.expect(every > 50, f"expected the rows of a model, got {every}")
    judge.expect(browser.evaluate("document.querySelectorAll('tr.detail').length"), "no row is open")
    beyond = browser.evaluate("(({scrollWidth, clientWidth}) => scrollWidth - clientWidth)(document.querySelector('.scroll'))")
    judge.expect(beyond <= 0, f"the table is {beyond} px wider than its frame")

    write = "((text) => { const box = document.querySelector('.controls input'); box.value = text; " \
            "box.dispatchEvent(new Event('input')); })"
    browser.evaluate(write + "('feed_forward')")
    judge.expect(0 < count() < every, "the filter by name changes nothing")
    browser.evaluate(write + "('')")
    browser.evaluate("document.querySelector('.verdicts button').click()")
    judge.expect(0 < count() < every, "the filter by verdict changes nothing")
    browser.evaluate("document.querySelector('.verdicts button').click()")

    browser.evaluate("document.querySelector('[role=treeitem]').focus()")
    for _ in range(2):
        browser.press("ArrowDown", ARROW_DOWN)
    path = browser.evaluate("document.querySelector('[aria-selected=true]').dataset.path")
    judge.expect(path and count() < every, f"the arrow keys choose '{path}' with {count()} rows")
    browser.evaluate("document.querySelector('[role=treeitem] .node').click()")
    judge.expect(count() == every, "the root does not show all rows again")

    before = said()
    browser.evaluate("(() => { const scale = document.querySelector('input[type=range]'); "
                     "scale.value = +scale.max; scale.dispatchEvent(new Event('input')); })()")
    judge.expect(said() != before and "loss scale of 2" in said(), f"the slider leaves '{before}' as it was")
    browser.evaluate("[...document.querySelectorAll('.choices button')].find((one) => one.textContent === 'int8').click()")
    judge.expect("int8" in said(), "another format does not change the histogram")
    browser.evaluate("document.querySelectorAll('.formats button').forEach((button) => button.click())")
    judge.expect_visible(browser, ["th.w0", "td.w4"])
    browser.evaluate("document.querySelectorAll('td.name button')[1].focus()")
    browser.press("Enter", ENTER)
    browser.evaluate("document.activeElement.click()")
    judge.expect(browser.evaluate("document.querySelectorAll('.panel svg').length") >= 3, "a second row opens no histogram")
    browser.evaluate("document.querySelectorAll('th button')[5].click()")
    cosines = browser.evaluate("[...document.querySelectorAll('tr.row')].map((row) => parseFloat(row.cells[5].textContent))")
    judge.expect(cosines == sorted(cosines), "a click on cosine does not put the worst first")
    browser.evaluate("document.querySelector('.mend button').click()")


SMALL = "--preset tiny --data text.txt --tokenizer tokenizer --model.n-layers 2 --model.dim 64 --model.n-heads 4 --seq-len 128"
PAGES = [
    Page("run/report.html", [f"halftone train {SMALL} --precision 16-mixed --batch-size 2 --max-steps 6 --out run"],
         [".tiles div", "figure", "figure svg", "figure svg path", ".facts dd"], without_script=["figure svg path"]),
    Page("compare.html", [f"halftone compare {SMALL} --batch-size 32 --precision 16-mixed --loss-scale 1 --html compare.html"],
         [".verdict h2", ".mend pre", ".tiles div", ".tree .mark", "tr.row", "tr.row .bar i", ".panel svg",
          ".panel svg .column", ".panel svg .zone", ".panel svg .line", ".panel output", "input[type=range]"],
         try_compare, without_script=[".verdict h2", ".mend pre", "tr.row"]),
    Page("halftone-probe/probe.html",
         ["HALFTONE_PROBE=first-nonfinite,census,underflow,compare LD_PRELOAD=$BUILD/libhalftone_probe.so "
          "$BUILD/tests/probe/probe_program_gpt --precision bf16 --fault zero_times_inf"],
         ["h1.bad", ".card.bad .facts dd", ".card.bad td.op", ".tiles div", "section h2", "td.bar span", "td.bar i",
          ".legend b"], without_script=["h1.bad", "td.bar i"]),
]


def make_pages(build: pathlib.Path, folder: pathlib.Path) -> None:
    verses = "".join(f"geese {i * i} fly south over the river in spring\n" for i in range(1200))
    (folder / "text.txt").write_text(verses, encoding="utf-8")
    environment = dict(os.environ, BUILD=str(build), PATH=f"{build}:{os.environ['PATH']}",
                       XDG_CACHE_HOME=str(folder / "cache"), OMP_WAIT_POLICY="PASSIVE")
    commands = ["halftone tokenizer train --data text.txt --vocab-size 280 --out tokenizer"]
    for command in commands + [command for page in PAGES for command in page.commands]:
        done = subprocess.run(command, shell=True, cwd=folder, env=environment, check=False, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
        if done.returncode != 0:
            sys.exit(f"{command} ended with {done.returncode}:\n{done.stdout.decode()}")


def judge_text(page: Page, text: str, judge: Judge) -> None:
    judge.expect("default-src 'none'" in text, "has no policy that keeps it from fetching")
    foreign = [one for one in re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)|url\(|@import""", text)
               if not one.startswith("#")]
    judge.expect(not foreign, f"refers to {foreign}")


def judge_page(page: Page, file: pathlib.Path, browser: Chromium, judge: Judge, pictures: pathlib.Path | None) -> None:
    judge.place = page.name
    judge_text(page, file.read_text(encoding="utf-8"), judge)
    grounds = set()
    for width in WIDTHS:
        for dark in (False, True):
            judge.place = f"{page.name}, {width} px, {'dark' if dark else 'light'}"
            browser.show(file, width, dark=dark)
            judge.expect_visible(browser, page.pictures)
            judge_width(browser, width, judge)
            grounds.add(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
            if pictures:
                browser.screenshot(pictures / f"{file.stem}-{width}-{'dark' if dark else 'light'}.png")
            judge_silence(file, browser, judge)
    judge.place = page.name
    judge.expect(len(grounds) == 2, f"expected a light and a dark ground, got {sorted(grounds)}")
    for width in WIDTHS if page.tries else ():
        judge.place = f"{page.name}, {width} px, tried"
        browser.show(file, width)
        page.tries(browser, judge)
        judge_width(browser, width, judge)
        judge_silence(file, browser, judge)
    judge.place = f"{page.name} without its script"
    browser.show(file, WIDTHS[0], script=False)
    judge.expect_visible(browser, page.without_script)
    judge.place = f"{page.name} on paper"
    browser.show(file, WIDTHS[0])
    printed = file.with_suffix(".pdf")
    browser.print_pdf(printed)
    judge.expect(printed.stat().st_size > 10_000, f"has {printed.stat().st_size} bytes")
    if pictures:
        shutil.copy(printed, pictures)


def judge_width(browser: Chromium, width: int, judge: Judge) -> None:
    wide = browser.evaluate("document.documentElement.scrollWidth")
    judge.expect(wide <= width, f"is {wide} px wide")


def judge_silence(file: pathlib.Path, browser: Chromium, judge: Judge) -> None:
    fetched = [url for url in browser.requests() if url != file.resolve().as_uri()]
    judge.expect(not fetched, f"fetched {fetched}")
    judge.expect(not browser.complaints(), f"the console says {browser.complaints()}")


def main(build: pathlib.Path, scratch: pathlib.Path, pictures: pathlib.Path | None) -> int:
    program = find_chromium()
    if program is None:
        skip("there is no chromium")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
    make_pages(build, scratch)
    judge = Judge()
    with Chromium(program) as browser:
        for page in PAGES:
            judge_page(page, scratch / page.name, browser, judge, pictures)
    print("\n".join(judge.problems) or f"{len(PAGES)} pages, {judge.checks} checks: all as they should be")
    return 1 if judge.problems else 0


if __name__ == "__main__":
    sys.exit(main(*(pathlib.Path(argument).resolve() for argument in sys.argv[2:4]),
                  pathlib.Path(sys.argv[4]).resolve() if len(sys.argv) > 4 else None))
