"""The website in a real browser, opened from file:// without a network: errors, widths, accessibility.

Every page by the renderer that publishes them, Quarto where it is here; by the other, one of each kind.
"""
import os
import re
import shutil
from pathlib import Path

import pytest

WIDTHS = 390, 1280
THEMES = 'light', 'dark'

RULES = {'light': '', 'dark': ", runOnly: ['color-contrast']"}  # a theme changes colours alone

# Code has thousands of coloured words of a few kinds, tables as many rows; two of a kind are enough.
TWO_OF_A_KIND = """() => {
  const seen = {}
  const more = kind => (seen[kind] = (seen[kind] || 0) + 1) > 2
  for (const word of document.querySelectorAll('.sourceCode span')) if (more(word.className)) word.remove()
  for (const row of document.querySelectorAll('tbody tr'))
    if (more([...row.querySelectorAll('*')].map(e => e.tagName + e.className).join(' '))) row.remove()
}"""

UNNAMED = """() => [...document.querySelectorAll('main :is(img, svg)')]
  .filter(e => !e.alt && !e.getAttribute('aria-label') && !e.closest('[aria-hidden], [role=img]'))
  .map(e => e.outerHTML.slice(0, 80))"""

UNANCHORED = """() => [...document.querySelectorAll('main :is(h2, h3, h4)')]
  .filter(h => !(h.id || h.dataset.anchorId)).map(h => h.textContent)"""

# What lies over the list of contents beside the page; what scrolls in a box does not count.
OVERPRINTS = """() => {
  const contents = document.querySelector('#quarto-margin-sidebar, #TOC')
  if (!contents || getComputedStyle(contents).display === 'none') return []
  const left = contents.getBoundingClientRect().left
  if (left < 640) return []
  return [...document.querySelectorAll('main *')]
    .filter(e => !e.closest('.scroll *, svg *, pre *') && e.getBoundingClientRect().right > left + 1)
    .map(e => e.outerHTML.slice(0, 80))
}"""


# A page of each kind: figures and tables, folds, the explorer, the search, code and equations, a list.
KINDS = ('index.html', 'pages/report/analysis.html', 'pages/report/statistics.html',
         'pages/report/explorer.html', 'pages/report/runs.html', 'pages/method/losses.html',
         'pages/method/index.html')


def of_each_kind(site):
    if os.environ.get('KD_EVERY_PAGE'): return all_pages(site) # minutes; what is left out is of a kind
    run = min(p.relative_to(site).as_posix() for p in (site/'runs').rglob('index.html'))
    return [*KINDS, run]


def all_pages(site):
    "All pages, and of the pages of the runs, which are alike, two."
    names = sorted(p.relative_to(site).as_posix() for p in site.rglob('*.html')
                   if 'site_libs' not in p.parts)
    runs = [name for name in names if name.startswith('runs/')]
    return [name for name in names if name not in runs] + [runs[0], runs[-1]]


def publishes(renderer):
    "Whether this renderer makes the site that readers see, so that every page is opened."
    return renderer == ('quarto' if shutil.which('quarto') else 'pandoc')


@pytest.fixture(scope='module', params=['pandoc', pytest.param('quarto', marks=pytest.mark.quarto)])
def renderer(request): return request.param


@pytest.fixture(scope='module')
def site(request, renderer):
    "The website of a study, by either renderer."
    return request.getfixturevalue('full' if renderer == 'pandoc' else 'full_by_quarto')


def watched(page):
    "What goes wrong on the page is in its `errors`."
    page.errors = []
    page.on('console', lambda m: page.errors.append(m.text) if m.type == 'error' else None)
    page.on('pageerror', lambda e: page.errors.append(str(e)))
    page.on('request', lambda r: page.errors.append(f'asks for {r.url}') if r.url.startswith('http') else None)
    page.on('requestfailed', lambda r: page.errors.append(f'{r.url} failed'))
    return page


@pytest.fixture(scope='module')
def opened(site, browser):
    "A function from (address, theme, width) to the open page; a theme has one page, which goes from address to address."
    window = {'width': 1280, 'height': 900}
    contexts = {theme: browser.new_context(viewport=window, color_scheme=theme, offline=True)
                for theme in THEMES}
    pages = {theme: watched(context.new_page()) for theme, context in contexts.items()}

    def open_(name, theme='light', width=WIDTHS[-1]):
        page = pages[theme]
        page.errors = []
        if page.viewport_size['width'] != width: page.set_viewport_size({'width': width, 'height': 900})
        page.goto((site/name).as_uri(), wait_until='load')
        return page

    yield open_
    for c in contexts.values(): c.close()


def test_every_page_opens_without_an_error_and_fits_a_phone_and_a_screen(site, renderer, opened):
    faults, widths = [], list(WIDTHS)
    for name in (all_pages if publishes(renderer) else of_each_kind)(site):
        page = opened(name, width=widths[0])
        for width in widths:
            page.set_viewport_size({'width': width, 'height': 900})
            wide = page.evaluate('document.documentElement.scrollWidth')
            if wide > width: faults.append((name, width, f'{wide} pixels wide'))
            if width == WIDTHS[-1]: faults += [(name, 'lies over the contents', e) for e in page.evaluate(OVERPRINTS)[:3]]
        widths.reverse()  # the next page begins as wide as this one ended
        faults += [(name, script[:40], e) for script in (UNNAMED, UNANCHORED) for e in page.evaluate(script)[:3]]
        faults += [(name, e) for e in page.errors]
    assert not faults


def test_a_box_says_that_there_is_more_to_its_right(opened):
    page = opened('pages/report/statistics.html', width=390)
    box = page.locator('.scroll:has(table):visible').first
    page.wait_for_function('e => e.classList.contains("more")', arg=box.element_handle())
    box.evaluate('e => { e.scrollLeft = e.scrollWidth }')
    page.wait_for_function('e => !e.classList.contains("more")', arg=box.element_handle())


@pytest.mark.parametrize('theme', THEMES)
def test_no_serious_accessibility_fault(site, opened, theme):
    axe = pytest.importorskip('axe_playwright_python', reason='axe-core is not installed')
    script = (Path(axe.__file__).parent/'axe.min.js').read_text()
    run = f"axe.run(document, {{resultTypes: ['violations'], preload: false{RULES[theme]}}})"
    faults = []
    for name in of_each_kind(site):
        page = opened(name, theme)
        page.evaluate(TWO_OF_A_KIND)
        page.evaluate(script)
        for fault in page.evaluate(run)['violations']:
            if fault['impact'] not in ('serious', 'critical'): continue
            nodes = [node['html'][:160] for node in fault['nodes'][:2]]
            faults.append((name, fault['id'], len(fault['nodes']), nodes))
    assert not faults


def test_page_and_figures_follow_dark_mode(opened):
    light = 'getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)'
    look = 'getComputedStyle(document.querySelector("figure.plot svg")).filter'
    for theme, expected in ('light', 'none'), ('dark', 'invert(1) hue-rotate(180deg)'):
        page = opened('pages/report/training.html', theme)
        ground = max(page.evaluate(light))
        assert ground > 240 if theme == 'light' else ground < 60
        assert page.evaluate(look) == expected


def test_a_table_sorts_by_a_click_and_back(opened):
    page = opened('pages/report/analysis.html')
    table = page.locator('main table').filter(has_text='Gain, pp').first
    column = table.locator('th').all_inner_texts().index('Gain, pp')
    read = lambda: [float(t.replace('−', '-')) for t in table.locator(f'tbody tr td:nth-child({column + 1})').all_inner_texts() if t.strip()]  # without what was not run
    before = read()
    head = table.get_by_role('button', name='Gain, pp')
    head.focus()
    page.keyboard.press('Enter')
    assert read() == sorted(before) != before or sorted(before) == before
    assert table.locator('th[aria-sort=ascending]').count() == 1
    head.click()
    assert read() == sorted(before, reverse=True)


def test_a_copied_table_is_numbers_for_a_spreadsheet(opened):
    page = opened('pages/report/analysis.html')
    page.evaluate("document.execCommand = () => { window.copied = document.activeElement.value; return true }")
    page.locator('main table').filter(has_text='Gain, pp').first.locator('xpath=following::button[@class="copy"][1]').click()
    lines = page.evaluate('window.copied').split('\n')
    at = lines[0].split('\t').index('Gain, pp')
    gains = [line.split('\t')[at] for line in lines[1:]]
    numbers = [text for text in gains if re.fullmatch(r'[+-]?\d+\.\d\d', text)]
    assert len(numbers) >= 6 and set(gains) - set(numbers) <= {'', 'not run'}, lines


def test_a_page_weighs_less_than_3_MB(site):
    for name in all_pages(site): assert (site/name).stat().st_size < 3e6, name
