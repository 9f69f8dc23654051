"""The website: what is staged, and what pandoc makes of it."""
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from conftest import ROOT
from sites import addresses, copy_repository, make_site, notebook, pages_of, soup

from kd_capacity import site_build, staging
from kd_capacity.config import UserError


# --- staging

def notebooks_of(root): return [root/'index.ipynb', *(root/'pages').rglob('*.ipynb')]


def test_staged_pages_are_notebooks_as_nbformat_writes_them(staged):
    "Line by line: Quarto splits a source that is one string at its newlines, and loses them."
    paths = notebooks_of(staged)
    assert len(paths) == len(addresses()) + 1  # and the frame of the run pages
    for path in paths:
        text = path.read_text()
        nb = nbformat.reads(text, 4)
        nbformat.validate(nb)
        assert text == nbformat.writes(nb) + '\n'
        assert all(isinstance(c['source'], list) for c in json.loads(text)['cells'])


def test_staged_pages_have_no_directive_and_valid_options(staged):
    front = r'---\ntitle: ".+"(\ndescription: ".+")?(\norder: \d+)?\n---'
    for path in notebooks_of(staged):
        nb = nbformat.read(path, 4)
        assert nb.cells[0].cell_type == 'raw' and re.fullmatch(front, nb.cells[0].source)
        assert set(nb.metadata) == {'kernelspec'}
        for cell in nb.cells:
            assert set(cell.metadata) == set()
            if cell.cell_type != 'code': continue
            options = [line for line in cell.source.split('\n') if re.match(r'\s*#\s*\|', line)]
            assert all(re.fullmatch(r'#\| [a-z-]+: \S.*', line) for line in options), path.name


def test_hidden_cells_are_left_out(staged):
    for page in staging.all_pages(staged):
        cells = nbformat.read(staged/page.source, 4).cells
        text = (staged/page.path).read_text()
        for cell in cells:
            if not re.search(r'^#\|\s*hide\s*$', cell.source, re.M): continue
            code = cell.source.split('\n', 1)[1].split('\n')
            assert json.dumps(code[0] + '\n')[1:] not in text or len(code) == 1


def test_unbuilt_report_says_how_to_build_it(staged):
    assert '`make report`' in (staged/'pages'/'report'/'analysis.ipynb').read_text()


SMALL = 'website: {title: small, sidebar: {contents: [index.ipynb, {auto: pages/method}]}}'


def small(root, source, built=None):
    "A repository of a front page and one chapter."
    texts = {'nbs/index.ipynb': notebook('# front\n\n> one line'),
             'nbs/method/00_config.ipynb': source, '_build/nbs/method/00_config.ipynb': built,
             '_quarto.yml': SMALL}
    for path, text in texts.items():
        if not text: continue
        (root/path).parent.mkdir(parents=True, exist_ok=True)
        (root/path).write_text(text)
    return root


def test_executed_chapter_is_used_until_it_is_changed(tmp_path):
    said = {'output_type': 'stream', 'name': 'stdout', 'text': 'said\n'}
    executed = notebook('# config', 'x = 1', outputs=[said])
    root = small(tmp_path, notebook('# config', 'x = 1'), executed)
    page = root/'pages'/'method'/'config.ipynb'
    assert staging.stage(root) == ['index.ipynb'] and 'said' in page.read_text()
    (root/'nbs'/'method'/'00_config.ipynb').write_text(notebook('# config', 'x = 2'))
    assert staging.stage(root) == ['index.ipynb', 'pages/method/config.ipynb']
    assert 'said' not in page.read_text()


def shown(kind, metadata={}, **data):
    return {'output_type': kind, 'metadata': metadata, 'data': data}


def test_outputs_that_are_no_reading_are_left_out(tmp_path):
    widget = {'application/vnd.jupyter.widget-view+json': {'model_id': 'a'}, 'text/plain': '50%'}
    outputs = [
        shown('display_data', **widget),
        shown('display_data', **{'application/javascript': 'alert(1)'}),
        {'output_type': 'stream', 'name': 'stderr', 'text': '50%|###\r'},
        {**shown('execute_result', **{'text/plain': '<Axes: >'}), 'execution_count': 1},
        shown('display_data', {'image/png': {'width': 10}},
              **{'image/png': 'aGk=', 'text/plain': '<Figure>'})]
    source = '# config', '#| fig-alt: A "small" picture\nplot()'
    root = small(tmp_path, notebook(*source), notebook(*source, outputs=outputs))
    staging.stage(root)
    output, = nbformat.read(root/'pages'/'method'/'config.ipynb', 4).cells[-1].outputs
    image = BeautifulSoup(output.data['text/html'], 'html.parser').img
    assert image.attrs == {'src': 'data:image/png;base64,aGk=', 'alt': 'A "small" picture',
                           'width': '10'}


def test_page_of_a_removed_notebook_goes(tmp_path):
    root = small(tmp_path, notebook('# config'))
    staging.stage(root)
    (root/'nbs'/'method'/'00_config.ipynb').rename(root/'nbs'/'method'/'01_profiles.ipynb')
    staging.stage(root)
    assert [p.name for p in (root/'pages'/'method').iterdir()] == ['profiles.ipynb']


def test_staging_finds_the_projects_own_python(tmp_path):
    "Whatever python3 is on PATH; without a .venv one sentence says what to do."
    root = copy_repository(tmp_path/'site', chapters=False)
    stage = ['sh', 'workflow/python.sh', '-m', 'kd_capacity.staging']
    run = lambda: subprocess.run(stage, cwd=root, capture_output=True, text=True, check=False,
                                 env={'PATH': '/usr/bin:/bin'})
    done = run()
    assert done.returncode == 0 and 'pages staged' in done.stdout, done.stderr
    assert (root/'index.ipynb').exists()
    (root/'.venv').unlink()
    done = run()
    assert done.returncode == 1 and done.stderr.count('\n') == 1 and 'make .venv' in done.stderr


def test_a_name_leads_to_its_definition(staged):
    texts = [c.source for c in nbformat.read(staged/'pages'/'method'/'losses.ipynb', 4).cells]
    assert '<span id="logit_kd"></span>' in texts
    linked = '\n'.join(p.read_text() for p in (staged/'pages').rglob('*.ipynb'))
    assert re.search(r'\[`(losses\.)?logit_kd[^`]*`\]\([^)]*#logit_kd\)', linked)


# --- _quarto.yml

def test_quarto_renders_the_staged_pages_alone():
    settings = staging.quarto_settings(ROOT)
    project, execute_ = settings['project'], settings['execute']
    assert (project['type'], project['output-dir']) == ('website', '_site')
    assert project['render'] == ['index.ipynb', 'pages/**/*.ipynb'] and not execute_['enabled']
    assert project['pre-render'] == 'sh workflow/python.sh -m kd_capacity.staging'
    assert project['post-render'] == 'sh workflow/python.sh -m kd_capacity.site_build finish'


def test_every_notebook_has_a_page():
    listed = {page.source for page in staging.all_pages(ROOT)}
    notebooks = {p.relative_to(ROOT) for p in (ROOT/'nbs').rglob('*.ipynb')
                 if not {'experiments', '.ipynb_checkpoints'} & set(p.parts)}
    assert listed == notebooks


FAKE = """#!/bin/sh
[ "$1" = --version ] && { echo "${QUARTO_VERSION:-1.7}"; exit; }
echo "$@" >> "$CALLS"
[ -e _quarto.yml ] && ! grep -q -e pre-render -e post-render _quarto.yml || exit 3
mkdir -p _site && echo elsewhere > _site/index.html
shift
for path in "$@"; do
    [ $path = --to ] && break
    address=${path%.ipynb}.html
    mkdir -p _site/$(dirname $address) && echo "$path" > _site/$address
    entries="$entries${entries:+, }{\\"href\\": \\"$address\\"}"
done
echo "[$entries]" > _site/search.json
exit ${QUARTO_STATUS:-0}
"""


@pytest.fixture
def fake_quarto(tmp_path, monkeypatch):
    "A stand-in on PATH; a function that returns what each of its processes was asked for since."
    (tmp_path/'bin').mkdir()
    fake, calls = tmp_path/'bin'/'quarto', tmp_path/'calls'
    fake.write_text(FAKE)
    fake.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path/"bin"}:{os.environ["PATH"]}')
    monkeypatch.setenv('CALLS', str(calls))
    def asked():
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        plain = lambda line: line.removeprefix('render ').removesuffix(' --to html --log-level warning')
        return [plain(line).split() for line in lines]
    return asked


def with_two_parts(root):
    "A small repository of a front page and two chapters, each in a part of its own."
    small(root, notebook('# config\n\n> what is chosen', 'x = 1'))
    (root/'nbs'/'study').mkdir()
    (root/'nbs'/'study'/'00_plan.ipynb').write_text(notebook('# plan\n\n> what runs\n\n[config](../method/00_config.ipynb)'))
    shutil.copytree(ROOT/'theme', root/'theme')
    settings = staging.quarto_settings(ROOT)
    settings['website']['sidebar']['contents'] = ['index.ipynb', {'auto': 'pages/method'}, {'auto': 'pages/study'}]
    (root/'_quarto.yml').write_text(yaml.safe_dump(settings, sort_keys=False))
    return root


EVERYTHING = ['index.ipynb', 'pages/method/config.ipynb', 'pages/runs/frame.ipynb', 'pages/study/plan.ipynb']
ADDRESSES = [path.replace('.ipynb', '.html') for path in EVERYTHING]


@pytest.mark.parametrize('cores', [1, 2, 3, 16])
def test_quarto_is_used_where_it_is_once_for_each_core(cores, tmp_path, monkeypatch, fake_quarto):
    root = with_two_parts(tmp_path/'root')
    monkeypatch.setattr(site_build, 'cores', lambda: cores)
    monkeypatch.setattr(site_build, 'finish', lambda site, folder: None)
    assert site_build.site(root) == (root/'_site'/'index.html', 'Quarto')
    asked = fake_quarto()
    assert len(asked) == min(cores, 4) and sorted(sum(asked, [])) == EVERYTHING
    for path, address in zip(EVERYTHING, ADDRESSES): assert (root/'_site'/address).read_text() == f'{path}\n'
    assert sorted(e['href'] for e in json.loads((root/'_site'/'search.json').read_text())) == ADDRESSES
    (root/'_site'/'stays').touch()
    (root/'nbs'/'index.ipynb').write_text(notebook('# front\n\n> another line'))
    monkeypatch.setenv('QUARTO_STATUS', '1')
    with pytest.raises(UserError, match='quarto render failed'): site_build.site(root)
    assert (root/'_site'/'stays').exists() and not list((root/'_build').glob('site-*'))


def change_text(root):
    (root/'nbs'/'method'/'00_config.ipynb').write_text(notebook('# config\n\n> what is chosen', 'x = 2'))


def change_title(root):
    (root/'nbs'/'method'/'00_config.ipynb').write_text(notebook('# config\n\n> what one chooses', 'x = 1'))


def change_theme(root): (root/'theme'/'content.css').write_text('p { color: red }')
def change_picture(root): (root/'theme'/'site.png').write_bytes(b'none of the pages shows it')


def change_settings(root):
    path = root/'_quarto.yml'
    path.write_text(path.read_text().replace('title: kd_capacity', 'title: another'))


def add_chapter(root): (root/'nbs'/'study'/'01_more.ipynb').write_text(notebook('# more'))


@pytest.mark.parametrize('change, stale', [
    (lambda root: None, []), (change_picture, []), (change_text, ['pages/method/config.ipynb']),
    (change_title, EVERYTHING), (change_theme, EVERYTHING), (change_settings, EVERYTHING),
    (add_chapter, sorted([*EVERYTHING, 'pages/study/more.ipynb']))])
def test_quarto_renders_again_what_has_changed(change, stale, tmp_path, monkeypatch, fake_quarto):
    "A page that is kept shows titles of others in its sidebar, and wears the theme."
    root = with_two_parts(tmp_path/'root')
    monkeypatch.setattr(site_build, 'finish', lambda site, folder: None)
    site_build.site(root)
    fake_quarto()
    change(root)
    site_build.site(root)
    assert sorted(sum(fake_quarto(), [])) == stale
    known = [e['href'] for e in json.loads((root/'_site'/'search.json').read_text())]
    assert sorted(known) == sorted({*ADDRESSES, *(path.replace('.ipynb', '.html') for path in stale)})


def test_another_quarto_renders_everything_again(tmp_path, monkeypatch, fake_quarto):
    root = with_two_parts(tmp_path/'root')
    monkeypatch.setattr(site_build, 'finish', lambda site, folder: None)
    site_build.site(root)
    fake_quarto()
    monkeypatch.setenv('QUARTO_VERSION', '1.8')
    site_build.site(root)
    assert sorted(sum(fake_quarto(), [])) == EVERYTHING


def files_of(site):
    "{name: bytes} of a website; entries of the search in the order of their places."
    files = {p.relative_to(site).as_posix(): p.read_bytes() for p in site.rglob('*') if p.is_file()}
    return {**files, 'search.json': sorted(json.loads(files['search.json']), key=lambda e: e['objectID'])}


@pytest.mark.quarto
@pytest.mark.skipif(not shutil.which('quarto'), reason='no quarto on PATH, so no page was made by it')
def test_a_site_by_two_quartos_is_the_site_by_one(tmp_path, monkeypatch):
    root = with_two_parts(tmp_path/'root')
    sites = []
    for cores in 1, 2:
        monkeypatch.setattr(site_build, 'cores', lambda: cores)
        sites.append(files_of(site_build.site(root)[0].parent))
    assert sites[0] == sites[1] and {'pages/method/config.html', 'pages/study/plan.html'} <= set(sites[0])
    assert b'<a href="../../pages/method/config.html">config</a>' in sites[0]['pages/study/plan.html']


@pytest.mark.quarto
@pytest.mark.skipif(not shutil.which('quarto'), reason='no quarto on PATH, so no page was made by it')
def test_a_site_of_kept_pages_is_the_site_made_at_once(tmp_path):
    root = with_two_parts(tmp_path/'root')
    site_build.site(root)
    change_text(root)
    in_parts = files_of(site_build.site(root)[0].parent)
    shutil.rmtree(root/'_build')
    assert in_parts == files_of(site_build.site(root)[0].parent)
    assert b'2' in in_parts['pages/method/config.html']


@pytest.mark.parametrize('quarto', [False, pytest.param(True, marks=[pytest.mark.quarto, pytest.mark.skipif(
    not shutil.which('quarto'), reason='no quarto on PATH, so no page was made by it')])])
def test_every_page_says_that_the_authors_runs_are_shown(quarto, tmp_path, monkeypatch):
    root = with_two_parts(tmp_path/'root')
    if not quarto: monkeypatch.setattr(site_build.shutil, 'which', lambda name: None)
    said = {}
    for profiles in 'demo', 'authors, demo', 'demo': # the pages of the first are kept
        (root/'_build').mkdir(exist_ok=True)
        (root/'_build'/'records').write_text(f'{profiles}\nresults\n')
        site = site_build.site(root)[0].parent
        pages = [BeautifulSoup(path.read_text(), 'html.parser') for path in site.rglob('*.html')]
        labels = [[e.get_text() for e in page.select('main #whose-runs')] for page in pages]
        assert len(pages) == 3
        said.setdefault(profiles, []).append(labels)
    sentence, = said['authors, demo'][0][0]
    assert 'The authors’ runs.' in sentence and 'beside those of demo' in sentence
    assert said['authors, demo'] == [[[sentence]]*3] and said['demo'] == [[[]]*3]*2


# --- the website that pandoc makes

class Links(HTMLParser):
    "Where a page leads, as (tag, address), and its places (ids). A whole tree of each page takes far longer."
    AT = {'a': 'href', 'link': 'href', 'img': 'src', 'script': 'src'}

    def __init__(self, path):
        super().__init__()
        self.addresses, self.places = [], set()
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if 'id' in given: self.places.add(given['id'])
        if self.AT.get(tag) in given: self.addresses.append((tag, given[self.AT[tag]]))


@pytest.mark.parametrize('site', ['empty', 'full'])
def test_no_broken_link_and_no_other_host(site, request):
    site = request.getfixturevalue(site)
    paths = [*pages_of(site), *(site/'runs').rglob('*.html')]
    pages = {p.resolve(): Links(p) for p in paths}
    for path, page in pages.items():
        for tag, at in page.addresses:
            url = urlsplit(at)
            if url.scheme == 'data' or url.scheme and tag == 'a': continue
            assert not url.scheme, (path.name, at)
            to = (path.parent/unquote(url.path)).resolve() if url.path else path
            assert to.is_file(), (path.name, at)
            # what these two show is chosen by the address; their own tests follow it
            choice = to.stem in ('explorer', 'runs') and '=' in url.fragment
            known = choice or not url.fragment or unquote(url.fragment) in pages[to].places
            assert known, (path.name, at)


def test_every_page_names_all_pages(full):
    titles = [a.get_text() for a in soup(full/'index.html').select('nav.pages a')]
    assert titles[0] == soup(full/'index.html').h1.get_text() and len(titles) == len(addresses())
    for path in pages_of(full):
        page = soup(path)
        assert [a.get_text() for a in page.select('nav.pages a')] == titles
        assert len(page.select('nav.pages a[aria-current=page]')) == len(page.select('h1')) == 1


def test_the_parts_stand_in_the_order_of_the_sidebar(full):
    links = [a['href'] for a in soup(full/'index.html').select('nav.pages a')]
    folders = list(dict.fromkeys(link.split('/')[1] for link in links[1:]))
    assert folders == staging.parts(ROOT)
    assert links[1:] == [a for a in addresses() if a != 'index.html']


def test_a_page_has_its_headings_with_anchors_and_its_code_line_by_line(full):
    "Read by a parser of our own from the notebook, and by pandoc from the staged page."
    for page in staging.all_pages(ROOT):
        html = soup(full/page.address)
        assert not re.search(r'(?m)^(title|description): "', html.main.get_text()), page.path
        if page.part == 'report': continue
        source = nbformat.read(ROOT/page.source, 4)
        lines = '\n'.join(c.source for c in source.cells if c.cell_type == 'markdown')
        lines = re.sub(r'(?s)^```.*?^```', '', lines, flags=re.M)
        heads = [re.sub(r'[`*$\\]', '', h) for h in re.findall(r'(?m)^##+ (.+)$', lines)]
        shown = html.main.select('h2, h3, h4')
        assert len(shown) == len(heads) and all(h.get('id') for h in shown), page.path
        code = [staging.options(c.source) for c in source.cells if c.cell_type == 'code']
        hidden = lambda options: 'false' in (options.get('echo'), options.get('include'))
        code = [text for options, directives, text in code
                if 'hide' not in directives and text.strip() and not hidden(options)]
        blocks = [pre.get_text() for pre in html.main.select('pre.python')]
        assert [b.rstrip() for b in blocks] == [c.strip('\n').rstrip() for c in code], page.path


def test_no_option_line_and_no_hidden_code_is_shown(full):
    for path in pages_of(full):
        for pre in soup(path).select('pre'):
            assert not re.match(r'#\s*\|', pre.get_text().lstrip()), path.name
    # every cell of the report says echo: false
    assert not soup(full/'pages'/'report'/'analysis.html').select('pre.sourceCode')


def test_text_alternatives_and_boxes(full):
    for path in pages_of(full):
        page = soup(path)
        assert all(image.get('alt') for image in page.select('img')), path
        boxes = page.select('main table')
        assert all(t.find_parent(class_='scroll') for t in boxes), path


def test_the_run_pages_are_pages_of_the_site(full):
    menu = [a.get_text() for a in soup(full/'index.html').select('nav.pages a')]
    runs = sorted((full/'runs').rglob('index.html'))
    assert len(runs) == 38 and not (full/'pages'/'runs').exists()
    for path in runs[:4]:
        page = soup(path)
        assert [a.get_text() for a in page.select('nav.pages a')] == menu
        assert page.h1.get_text() == path.parent.relative_to(full/'runs').as_posix()
        contents = [a['href'] for a in page.select('#TOC a')]
        assert contents == ['#' + h['id'] for h in page.main.select('h2')]
        assert 'frame-' not in path.read_text()


def test_a_run_that_is_gone_leaves_the_site(tmp_path):
    root = small(tmp_path, notebook('# config'))
    shutil.copytree(ROOT/'theme', root/'theme')
    made = root/'_build'/'runs'/'demo'/'s0'
    made.mkdir(parents=True)
    (made/'record.json').write_text('{}')
    run = '<title>demo/s0</title><meta name="description" content="x"><main><p>a run</p></main>'
    (made/'index.html').write_text(run)
    sites = make_site(root)
    assert 'a run' in (sites/'runs'/'demo'/'s0'/'index.html').read_text()
    shutil.rmtree(made)
    assert not (make_site(root)/'runs').exists()


def test_make_report_makes_the_run_pages_before_the_site():
    make = ['make', '-n', '-o', '.venv/.ready', '_site/index.html', 'PROFILE=demo fast']
    text = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert 0 < text.index('kd_capacity.run_pages demo fast --results')
    assert text.index('kd_capacity.run_pages') < text.index('kd_capacity.site_build site')


def test_make_serve_says_what_is_missing(tmp_path):
    shutil.copy(ROOT/'Makefile', tmp_path)
    done = subprocess.run(['make', 'serve'], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode and 'make report builds it' in done.stderr


def test_front_page_lists_every_chapter(full):
    links = {a.get('href') for a in soup(full/'index.html').select('main table a')}
    chapters = [p.address for p in staging.all_pages(ROOT) if re.match(r'\d', p.source.name)]
    assert set(chapters) <= links


def test_a_failure_leaves_the_old_site(tmp_path, monkeypatch):
    root = small(tmp_path, notebook('# config'))
    (root/'_site').mkdir()
    (root/'_site'/'index.html').write_text('old')
    monkeypatch.setattr(site_build.shutil, 'which', lambda name: None)
    monkeypatch.setattr(site_build, 'make_pages', lambda *a: 1/0)
    with pytest.raises(ZeroDivisionError): site_build.site(root)
    assert (root/'_site'/'index.html').read_text() == 'old'
    assert [p.name for p in (root/'_build').iterdir()] == []


def test_command_line(capsys):
    site_build.main('headline', ['fast'])
    assert '0 of 3' in capsys.readouterr().out
    with pytest.raises(SystemExit) as refused: site_build.main('headline', ['dmeo'])
    assert "'demo'" in refused.value.code and '\n' not in refused.value.code
