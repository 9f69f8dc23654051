"""The website in a real browser, opened from file:// without a network: errors, links, widths, accessibility."""
import re
from pathlib import Path

import pytest

WIDTHS = 390, 1280
THEMES = 'light', 'dark'

RULES = {'light': '', 'dark': ", runOnly: ['color-contrast']"}  # a theme changes colours alone

# Code has thousands of coloured words of a few kinds; axe-core need not measure the contrast of each.
FIRST_OF_A_KIND = """() => {
  const seen = new Set()
  for (const word of document.querySelectorAll('.highlight span'))
    if (seen.has(word.className)) word.remove()
    else seen.add(word.className)
}"""


def pages(site): return sorted(p.relative_to(site).as_posix() for p in site.rglob('*.html'))


@pytest.fixture(scope='module')
def opened(full, browser):
    "A function from (page, theme) to the open page; what goes wrong while it opens is in its `errors`."
    contexts = {t: browser.new_context(viewport={'width': 1280, 'height': 900}, color_scheme=t, offline=True) for t in THEMES}

    def open_(name, theme='light'):
        page = contexts[theme].new_page()
        page.errors = []
        page.on('console', lambda m: page.errors.append(m.text) if m.type == 'error' else None)
        page.on('pageerror', lambda e: page.errors.append(str(e)))
        page.on('requestfailed', lambda r: None if 'mathjax' in r.url else page.errors.append(f'{r.url} failed'))
        page.goto((full/name).as_uri(), wait_until='load')
        return page

    yield open_
    for c in contexts.values(): c.close()


def test_every_page_opens_without_an_error_and_fits_a_phone_and_a_screen(full, opened):
    found = []
    for name in pages(full):
        page = opened(name)
        for width in WIDTHS:
            page.set_viewport_size({'width': width, 'height': 900})
            wide = page.evaluate('document.documentElement.scrollWidth')
            if wide > width: found.append((name, width, f'{wide} pixels wide'))
        errors = [e for e in page.errors if 'mathjax' not in e and 'ERR_INTERNET_DISCONNECTED' not in e]  # mathematics may need the network
        if errors: found.append((name, errors))
        broken = page.evaluate('[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src.slice(0, 80))')
        if broken: found.append((name, broken))
        page.close()
    assert not found


@pytest.mark.parametrize('theme', THEMES)
def test_no_serious_accessibility_fault(full, opened, theme):
    axe = pytest.importorskip('axe_playwright_python', reason='axe-core is not installed')
    script = (Path(axe.__file__).parent/'axe.min.js').read_text()
    runs = [p for p in pages(full) if p.startswith('runs/')]
    found = []
    for name in [p for p in pages(full) if not p.startswith('runs/')] + runs[:1]:
        page = opened(name, theme)
        page.evaluate(FIRST_OF_A_KIND)
        page.evaluate(script)
        for fault in page.evaluate(f"axe.run(document, {{resultTypes: ['violations']{RULES[theme]}}})")['violations']:
            if fault['impact'] in ('serious', 'critical'):
                found.append((name, fault['id'], len(fault['nodes']), [n['html'][:160] for n in fault['nodes'][:2]]))
        page.close()
    assert not found


def test_a_table_sorts_by_a_click_and_back(opened):
    page = opened('pages/analysis.html')
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
    page.close()


def test_a_copied_table_is_numbers_for_a_spreadsheet(opened):
    page = opened('pages/analysis.html')
    page.evaluate("document.execCommand = () => { window.copied = document.activeElement.value; return true }")
    page.locator('main table').filter(has_text='Gain, pp').first.locator('xpath=following::button[@class="copy"][1]').click()
    lines = page.evaluate('window.copied').split('\n')
    at = lines[0].split('\t').index('Gain, pp')
    ran = [line for line in lines[1:] if line.startswith('demo')]
    assert len(ran) == 6 and all(re.fullmatch(r'[+-]?\d+\.\d\d', line.split('\t')[at]) for line in ran), lines
    page.close()


def test_a_page_weighs_less_than_3_MB(full):
    for name in pages(full): assert (full/name).stat().st_size < 3e6, name
