"""The website by the real Quarto, beside the one by pandoc alone: the same pages in other clothes."""
import json
import re
from functools import cache
from urllib.parse import unquote, urlsplit

import pytest
from conftest import ROOT
from sites import addresses, soup

from kd_capacity import staging

pytestmark = pytest.mark.quarto


@cache
def content(path):
    "The part of a page that its notebook wrote."
    page = soup(path)
    main = page.select_one('main')
    for tag in main.select('#title-block-header, nav, .around, button, h1'): tag.decompose()
    return main


def anchor(heading):
    "Quarto moves a heading's identifier to the section around it."
    return heading.get('id') or heading.get('data-anchor-id')


def headings(main): return [(h.name, ' '.join(h.get_text().split())) for h in main.select('h2, h3, h4')]


def anchors(main): return [anchor(h) for h in main.select('h2, h3, h4')]


def code(main): return [pre.get_text().rstrip() for pre in main.select('pre.sourceCode')]


def prose(main):
    "What a page says outside of code, where a profile or a program may well name a title."
    texts = main.find_all(string=True)
    return ''.join(t for t in texts if not t.find_parent(['pre', 'code', 'script']))


def cells(main):
    "The tables, as rows of texts."
    text = lambda cell: ' '.join(cell.get_text().split())
    return [[[text(c) for c in row.select('th, td')] for row in table.select('tr')]
            for table in main.select('table')]


def test_quarto_warns_of_nothing(full_by_quarto):
    log = re.sub(r'\x1b\[[0-9;]*m', '', (full_by_quarto.parent/'quarto.log').read_text())
    assert not [line for line in log.splitlines() if 'WARN' in line.upper()]


@pytest.mark.parametrize('part', ['', *staging.parts(ROOT)])
def test_pages_have_what_their_notebooks_have(full, full_by_quarto, part):
    for page in staging.all_pages(ROOT):
        if page.part != part: continue
        ours, theirs = content(full/page.address), content(full_by_quarto/page.address)
        assert headings(theirs) == headings(ours) and all(anchors(theirs)), page
        assert all(a in (None, b) for a, b in zip(anchors(ours), anchors(theirs))), page
        assert code(theirs) == code(ours), page
        assert cells(theirs) == cells(ours), page
        text = prose(theirs)
        assert not re.search(r'(?m)^\s*(title|description|order): ', text), page
        assert '```' not in text and ':::' not in text, page
        assert len(theirs.select('math')) == len(ours.select('math')), page


def test_every_page_is_in_the_sidebar_and_the_current_one_is_marked(full_by_quarto):
    for address in addresses():
        page = soup(full_by_quarto/address)
        links = [a['href'] for a in page.select('#quarto-sidebar a.sidebar-link')]
        assert len(links) == len(addresses()), address
        active = page.select('#quarto-sidebar a.active')
        assert len(active) == 1 and active[0]['href'].endswith(address.split('/')[-1]), address


def test_search_knows_the_pages_and_the_runs(full_by_quarto):
    entries = json.loads((full_by_quarto/'search.json').read_text())
    found = {e['href'].split('#')[0] for e in entries}
    runs = {p.relative_to(full_by_quarto).as_posix() for p in (full_by_quarto/'runs').rglob('*.html')}
    assert found == {*addresses(), *runs} and len(runs) == 38
    others = [e for e in entries if not e['href'].startswith('pages/site/')] # whose chapters speak of both
    assert not [e for e in others if 'frame-' in e['text']]
    assert not [e for e in entries if re.match(r'\W*title: ', e['text'])] # front matter, as text
    losses = next(e for e in entries if e['href'] == 'pages/method/losses.html')
    assert losses['title'] == 'losses'


def test_links_lead_to_something_and_nothing_comes_from_elsewhere(full_by_quarto):
    paths = [p for p in full_by_quarto.rglob('*.html') if 'site_libs' not in p.parts]
    places = {p.resolve(): {e['id'] for e in soup(p).select('[id]')} for p in paths}
    for path in paths:
        for tag, at in ('a', 'href'), ('link', 'href'), ('img', 'src'), ('script', 'src'):
            for element in soup(path).select(f'{tag}[{at}]'):
                url = urlsplit(element[at])
                if url.scheme == 'data' or url.scheme and tag == 'a': continue
                assert not url.scheme, (path.name, element[at])
                to = (path.parent/unquote(url.path)).resolve() if url.path else path.resolve()
                if to.is_dir(): to = to/'index.html'
                assert to.is_file(), (path, element[at])
                choice = '=' in url.fragment or tag != 'a'  # what the explorer and the runs show
                known = choice or not url.fragment or unquote(url.fragment) in places[to]
                assert known, (path, element[at])
    styles = '\n'.join(p.read_text() for p in full_by_quarto.rglob('*.css'))
    assert not re.search(r'@import\s*(url\()?["\']?https?:', styles)


def test_run_pages_have_the_sidebar_the_search_and_the_toggle(full_by_quarto):
    menu = [a.get_text().strip() for a in soup(full_by_quarto/'index.html').select('a.sidebar-link')]
    for path in sorted((full_by_quarto/'runs').rglob('index.html'))[:5]:
        page = soup(path)
        assert [a.get_text().strip() for a in page.select('a.sidebar-link')] == menu
        assert page.select('#quarto-search') and page.select('.quarto-color-scheme-toggle')
        assert page.h1.get_text() == path.parent.relative_to(full_by_quarto/'runs').as_posix()
        offset = page.select_one('meta[name="quarto:offset"]')['content']
        assert (path.parent/offset/'search.json').is_file()
        contents = [a['href'] for a in page.select('#TOC a')]
        assert contents == ['#' + h['id'] for h in page.main.select('h2[id]')]
