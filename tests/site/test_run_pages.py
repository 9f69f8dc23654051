"""The pages of the runs: what they say is in the record, nothing in a record is markup or a way out, and only what changed is made."""
import json
import re
import shutil
import subprocess

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from made_up import baseline, student, write

from kd_capacity import config, pages, records, run_pages, sections
from kd_capacity.config import UserError
from kd_capacity.show import run_address

EVIL = '<script>alert(1)</script><img src=x onerror=alert(1)>'
SPECS = [config.run_spec('demo', 'teacher', teacher='resnet50'), baseline(), student(method='logit'), student(method='feature')]


@pytest.fixture
def results(tmp_path):
    write(SPECS, tmp_path/'results', failure={SPECS[1].run_id: f'stopped {EVIL}'})
    return tmp_path/'results'


@pytest.fixture
def built(results, tmp_path):
    "(results, pages) of four runs, one of them failed."
    assert run_pages.build(['demo'], results, tmp_path/'pages') == (sorted(s.run_id for s in SPECS), [], [])
    return results, tmp_path/'pages'


def soup(pages, spec_or_id): return BeautifulSoup((pages/getattr(spec_or_id, 'run_id', spec_or_id)/'index.html').read_text(), 'html.parser')


def part(page, name):
    "A definition table as a dict."
    return {tr.th.get_text(): tr.td.get_text() for tr in page.find(id=name).find_next('table').select('tr')}


def change(results, run, **more):
    record = records.read_record(run.run_id, results)
    del record['schema_version']
    records.write_record({**record, **more}, results)


# --- what a page says

@pytest.mark.parametrize('spec', SPECS, ids=lambda s: s.run_id)
def test_a_page_has_the_numbers_of_its_record(built, spec):
    results, pages = built
    page, record = soup(pages, spec), records.read_record(spec.run_id, results)
    assert page.title.get_text() == spec.run_id and record['status'] in page.main.get_text()
    assert json.loads((pages/spec.run_id/'record.json').read_text()) == record and page.select_one('a[href="record.json"]')
    said = part(page, 'spec')
    assert list(said) == list(record['spec'])
    for k, v in record['spec'].items():
        if isinstance(v, float): assert float(said[k]) == v
        elif not isinstance(v, bool): assert said[k] == ('–' if v is None else str(v))
    if record['outcome']:
        assert part(page, 'outcome') == {k: f'{100*v:.2f} %' if isinstance(v, float) else str(v) for k, v in record['outcome'].items()}
        assert {k: float(v) for k, v in part(page, 'norms').items()} == pytest.approx(record['norms'], rel=1e-5)
    else: assert page.find(id='outcome') is None
    if record['fidelity']:
        assert part(page, 'fidelity')['agreement'] == f'{100*record["fidelity"]["agreement"]:.2f} %'
        assert float(part(page, 'fidelity')['kl_t4']) == pytest.approx(record['fidelity']['kl_t4'], rel=1e-5)
    assert part(page, 'timings') == {'seconds': '9', 'images_per_second': '1000'} and part(page, 'environment')['deterministic'] == 'yes'


def test_the_command_makes_the_run(built):
    import shlex
    for spec in SPECS:
        words = shlex.split(soup(built[1], spec).find(id='to-copy').get_text())
        assert words[:3] == ['papermill', f'nbs/experiments/{"teacher" if spec.role == "teacher" else "student"}.ipynb', 'out/run.ipynb']
        given = {k: v for dash, k, v in zip(*[iter(words[3:])]*3)}
        again = config.run_spec(given.pop('profile'), spec.role, **{'teacher' if k == 'arch' else k: int(v) if k == 'seed' else v for k, v in given.items()})
        assert again == spec


def test_curves_end_where_the_history_does(built):
    results, pages = built
    last = records.history(SPECS[3].run_id, results).iloc[-1]
    figure = soup(pages, SPECS[3]).select_one('figure.plot')
    assert f'loss {last.loss_total:.3g}, train accuracy {100*last.train_accuracy:.2f} %, validation accuracy {100*last.validation_accuracy:.2f} %' in figure.figcaption.get_text()
    assert {'projections', 'threshold 1', 'validation'} <= {t.get_text().strip() for t in figure.select('svg text')} and figure.svg['role'] == 'img'


def test_a_history_older_than_a_loss_is_drawn(results, tmp_path):
    "One more method adds a column to histories; runs from before it have none."
    path = results/SPECS[3].run_id/'history.csv'
    whole = pd.read_csv(path)
    whole[['epoch', 'loss_total', 'train_accuracy']].to_csv(path, index=False)
    figure = run_pages.curves_figure(path.parent)
    assert '<svg' in figure and 'cannot be drawn' not in figure
    whole[['epoch']].to_csv(path, index=False)
    assert 'it has no column loss_total' in run_pages.curves_figure(path.parent)


def test_a_run_leads_to_its_teacher_and_back_to_all_runs(built):
    page = soup(built[1], SPECS[2])
    links = {a.get_text(): a['href'] for a in page.select('a[href]')}
    place = built[1]/SPECS[2].run_id
    assert (place/links[SPECS[0].run_id]).resolve() == (built[1].parent/'runs'/SPECS[0].run_id/'index.html').resolve()  # as it lies on the site, below runs/
    assert '../pages/report/runs.html#q=demo/r50w8-r18w8/logit' in links['all runs']
    assert all(h.get('id') for h in page.select('h2'))


def test_every_value_of_a_record_is_shown(results, tmp_path):
    change(results, SPECS[0], new={'deep': {'er': [1, {'x': 'found'}]}}, note='also', environment={'device': 'cpu', 'packages': {'torch': '2.15.0'}, 'not_deterministic': []})
    run_pages.build(['demo'], results, tmp_path/'pages')
    page = soup(tmp_path/'pages', SPECS[0])
    assert part(page, 'environment') == {'device': 'cpu', 'packages, torch': '2.15.0', 'not_deterministic': ''}
    assert part(page, 'other')['note'] == 'also' and 'found' in part(page, 'other')['new, deep']


def test_an_imported_run_says_so(tmp_path):
    from archives import archive, members
    runs = records.import_authors(archive(tmp_path/'small.zip', members()), tmp_path/'results')
    made, _, left_out = run_pages.build(['authors'], tmp_path/'results', tmp_path/'pages')
    assert (len(made), left_out) == (16, [])
    copy = runs[runs.duplicate_of.notna()].iloc[0]
    page = soup(tmp_path/'pages', copy.run_id)
    assert 'not trained by this package' in page.main.get_text() and page.find(id='to-copy') is None
    assert [a['href'] for a in page.select('a') if a.get_text() == copy.duplicate_of] == [run_address(copy.duplicate_of, '/'.join(['..']*(copy.run_id.count('/') + 2)))]
    assert page.select('figure.plot svg') and part(page, 'outcome')['test_best'] == f'{100*copy.test_best:.2f} %'


# --- nothing in a record is markup

def harmless(html):
    page = BeautifulSoup(html, 'html.parser')
    assert all('alert' not in s.get_text() for s in page.select('script')) and not page.select('[onerror], [onclick], iframe, img[src=x]')
    assert not [a for a in page.select('[href]') if re.match(r'\s*javascript:', a['href'], re.I)]
    return page


def test_hostile_records_are_text(results, tmp_path):
    change(results, SPECS[0], failure=EVIL, status='failed', outcome={'test_best': .5, EVIL: EVIL}, new={'x': [EVIL, {EVIL: EVIL}]}, data={'name': EVIL}, duplicate_of='javascript:alert(1)',
           environment={'imported_from': EVIL, 'archive': EVIL}, spec={'student': EVIL, 'profile': EVIL, 'new': EVIL, 'teacher_run': '"><b>'}, **{EVIL: EVIL})
    (results/SPECS[0].run_id/'history.csv').write_text(f'epoch,{EVIL}\n{EVIL},1\n')
    (results/SPECS[2].run_id/'history.csv').write_text(f'{",".join(records.HISTORY)}\n{",".join([EVIL]*len(records.HISTORY))}\n')
    run_pages.build(['demo'], results, tmp_path/'pages')
    page = harmless((tmp_path/'pages'/SPECS[0].run_id/'index.html').read_text())
    assert page.main.get_text().count(EVIL) >= 9 and part(page, 'outcome') == {'test_best': '50.00 %', EVIL: EVIL}
    page = harmless((tmp_path/'pages'/SPECS[1].run_id/'index.html').read_text())
    assert f'stopped {EVIL}' in page.main.get_text()
    page = harmless((tmp_path/'pages'/SPECS[2].run_id/'index.html').read_text())
    assert 'cannot be drawn' in page.main.get_text() and EVIL in page.main.get_text()


def test_a_hostile_name_is_text_and_its_address_works(results, tmp_path):
    run_id = 'demo/<b onclick=alert(1)>&"\'#?%41/a b'
    (results/run_id).parent.mkdir(parents=True)
    shutil.copytree(results/SPECS[1].run_id, results/run_id)
    change(results, type('', (), {'run_id': run_id}), run_id=run_id)
    run_pages.build(['demo'], results, tmp_path/'site'/'runs')
    page = harmless((tmp_path/'site'/'runs'/run_id/'index.html').read_text())
    assert page.title.get_text() == run_id
    table = harmless(run_pages.search_table(run_pages.listing(['demo'], results)))
    row = next(tr for tr in table.select('tbody tr') if tr.td.get_text() == run_id)
    from urllib.parse import unquote
    assert (tmp_path/'site'/'pages'/'report'/unquote(row.a['href'])).resolve() == (tmp_path/'site'/'runs'/run_id/'index.html').resolve()
    assert 'outside the plan' in row.get_text()


def test_a_hostile_notebook_is_reduced_to_formatting(results, tmp_path):
    html = f'{EVIL}<iframe src="https://x"></iframe><a href="JaVaScRiPt:alert(1)">a</a><svg onload=alert(1)><script>alert(1)</script></svg><b style="x" onclick=alert(1)>bold</b><form><p>kept</p></form>'
    cells = [nbformat.v4.new_markdown_cell(f'# A student\n\n{html}'),
             nbformat.v4.new_code_cell('1 < 2', outputs=[nbformat.v4.new_output('display_data', {'text/html': html, 'text/plain': 'x'}), nbformat.v4.new_output('display_data', {'text/markdown': html}),
                                                         nbformat.v4.new_output('display_data', {'image/png': 'aGk='}), nbformat.v4.new_output('display_data', {'application/javascript': 'alert(1)'}),
                                                         nbformat.v4.new_output('error', ename=EVIL, evalue=EVIL, traceback=[EVIL])])]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), results/SPECS[0].run_id/'run.ipynb')
    (results/SPECS[1].run_id/'run.ipynb').write_text('{"cells": 3}')
    run_pages.build(['demo'], results, tmp_path/'pages')
    page = harmless((tmp_path/'pages'/SPECS[0].run_id/'index.html').read_text())
    shown = page.find(id='notebook').find_next('details')
    assert {b.get_text() for b in shown.select('b')} == {'bold'} and 'kept' in shown.get_text() and '1 < 2' in shown.get_text() and shown.select('img[src="data:image/png;base64,aGk="]')
    assert 'It cannot be read' in soup(tmp_path/'pages', SPECS[1]).main.get_text()


@pytest.mark.parametrize('name', ['../../out', '/etc/out', 'demo/../../out', 'demo/x\x00', 'other/place', None, ['demo'], 'demo/.hidden', 'demo/index.html'])
def test_a_name_that_leads_elsewhere_gets_no_page(results, tmp_path, name):
    path = results/SPECS[1].run_id/'record.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), 'run_id': name}))
    made, _, left_out = run_pages.build(['demo'], results, tmp_path/'a'/'b'/'pages')
    assert len(made) == 3 and len(left_out) == 1 and str(path) in left_out[0] and '\n' not in left_out[0]
    assert {p.name for p in tmp_path.iterdir()} <= {'a', 'results', 'KD_RESULTS', 'KD_DATA'} and not list(tmp_path.rglob('out'))
    assert name not in list(run_pages.runs_below(['demo'], results).folders)


# --- only what changed

def times(pages): return {p: p.stat().st_mtime_ns for p in pages.rglob('*') if p.is_file()}


def test_a_second_build_makes_nothing(built):
    results, pages = built
    before = times(pages)
    assert run_pages.build(['demo'], results, pages) == ([], [], []) and times(pages) == before


@pytest.mark.parametrize('name', ['record.json', 'history.csv', 'run.ipynb'])
def test_a_changed_run_is_made_again_alone(built, name):
    results, pages = built
    path = results/SPECS[2].run_id/name
    if name == 'record.json': change(results, SPECS[2], seconds=1.25)
    else: path.write_text((path.read_text() if path.exists() else '') + '\n')
    assert run_pages.build(['demo'], results, pages)[0] == [SPECS[2].run_id]
    if name == 'record.json': assert part(soup(pages, SPECS[2]), 'timings')['seconds'] == '1.25'


def test_a_change_of_template_or_code_makes_all_again(built, monkeypatch):
    monkeypatch.setattr(run_pages, '_page_surroundings', lambda: 'another')
    assert len(run_pages.build(['demo'], *built)[0]) == 4


def test_the_page_of_a_run_that_vanished_goes(built):
    results, pages = built
    (pages/'mine.txt').write_text('not a page')
    (pages/SPECS[0].run_id/'mine.txt').write_text('not a page')
    for spec in SPECS[0], SPECS[3]: shutil.rmtree(results/spec.run_id)
    made, gone, _ = run_pages.build(['demo'], results, pages)
    assert sorted(gone) == sorted(s.run_id for s in (SPECS[0], SPECS[3])) and made == [SPECS[2].run_id]  # its teacher is no link any more
    assert not (pages/'demo'/'r50-r18'/'feature').exists() and {p.name for p in (pages/SPECS[0].run_id).iterdir()} == {'mine.txt'} and (pages/'mine.txt').exists()
    assert SPECS[0].run_id not in [a.get_text() for a in soup(pages, SPECS[2]).select('a')]


def test_a_build_that_was_stopped_is_finished_by_the_next(results, tmp_path, monkeypatch):
    whole, pages = run_pages._make, tmp_path/'pages'
    def stops(job): return whole(job) if job[0] != SPECS[3].run_id else 1/0
    monkeypatch.setattr(run_pages, '_make', stops)
    with pytest.raises(ZeroDivisionError): run_pages.build(['demo'], results, pages)
    assert not list(pages.rglob('*.tmp'))
    monkeypatch.setattr(run_pages, '_make', whole)
    shutil.rmtree(results/SPECS[1].run_id)  # made by the stopped build, and gone since
    made, gone, _ = run_pages.build(['demo'], results, pages)
    assert SPECS[3].run_id in made and gone == [SPECS[1].run_id] and not (pages/SPECS[1].run_id).exists()
    assert run_pages.build(['demo'], results, pages)[0] == []


def test_a_lost_page_is_made_again(built):
    (built[1]/SPECS[0].run_id/'index.html').unlink()
    assert run_pages.build(['demo'], *built)[0] == [SPECS[0].run_id]


def test_several_processes_make_the_same_pages(tmp_path):
    specs = config.study_runs('demo')[:4]
    write(specs, tmp_path/'results')
    for n in 1, 2: assert len(run_pages.build(['demo'], tmp_path/'results', tmp_path/f'{n}', n)[0]) == 4
    for p in (tmp_path/'1').rglob('*.*'): assert not p.is_file() or p.read_bytes() == (tmp_path/'2'/p.relative_to(tmp_path/'1')).read_bytes()


def test_command_line(results, tmp_path, capsys):
    (results/'demo'/'x').mkdir()
    shutil.copy(results/SPECS[1].run_id/'record.json', results/'demo'/'x')
    def say(*profiles):
        run_pages.main(profiles, results=str(results), into=str(tmp_path/'pages'))
        return capsys.readouterr()
    first = say('demo, paper-v1')
    assert first.out == '4 run pages made\n' and 'demo/x/record.json gets no page' in first.err
    assert say('demo').out == ''
    shutil.rmtree(results/SPECS[2].run_id)
    assert say('demo').out == '0 run pages made, 1 removed\n'
    with pytest.raises(SystemExit, match="Did you mean 'demo'"): say('dmeo')
    with pytest.raises(SystemExit, match='lies in the results folder'):
        run_pages.main(['demo'], results=str(results), into=str(results/'demo'))


def test_the_pages_refuse_to_lie_among_records(results):
    with pytest.raises(UserError): run_pages.build(['demo'], results, results)
    assert not list(results.rglob('index.html'))


# --- more runs than anybody opens

def test_beyond_the_bound_failed_runs_come_first_then_seed_by_seed_and_the_page_says_so(results, tmp_path, monkeypatch):
    monkeypatch.setattr(run_pages, 'MOST_PAGES', 3)
    others = [student(method='logit', seed=seed) for seed in (2, 1)]
    write(others, results)
    made, _, left_out = run_pages.build(['demo', 'paper-v1'], results, tmp_path/'pages')
    assert len(made) == 3 and SPECS[1].run_id in made and left_out == [] and not {s.run_id for s in others} & set(made)
    assert run_pages.runs_below(['demo', 'paper-v1'], results).beyond == {'demo': 3}
    listed = run_pages.listing(['demo'], results)
    assert set(listed[listed.page.notna()].Run) == set(made) and len(listed) == 37
    page = BeautifulSoup((tmp_path/'pages'/made[-1]/'index.html').read_text(), 'html.parser')
    assert all((tmp_path/'pages'/made[-1]/a['href']).resolve().is_file() for a in page.select('a[href]') if a.get_text() in {s.run_id for s in SPECS})
    report = pages.Report([pages.Study(name, results) for name in ('demo', 'paper-v1')], results)
    said = [b.text for b in sections.runs_section(report) if isinstance(b, pages.Sentence)]
    assert said == ['3 of 6 runs with a record have a page of their own: those that failed first, then seed by seed. The records of all are in the folder demo of the results']
    monkeypatch.setattr(run_pages, 'MOST_PAGES', 6)
    assert {*run_pages.build(['demo'], results, tmp_path/'pages')[0], *made} == {s.run_id for s in (*SPECS, *others)}


def searched(page, fragment):
    "The page as a browser has it when its address ends so."
    done = subprocess.run(['chromium', '--headless', '--no-sandbox', '--disable-gpu', '--dump-dom', f'file://{page}{fragment}'], capture_output=True, text=True, timeout=120)
    return BeautifulSoup(done.stdout, 'html.parser')


@pytest.mark.skipif(not shutil.which('chromium'), reason='no chromium: the search field cannot be tried')
def test_a_long_table_is_cut_and_the_search_finds_what_it_does_not_show(results, tmp_path, monkeypatch):
    monkeypatch.setattr(run_pages, 'MOST_ROWS', 5)
    change(results, SPECS[3], status='failed', failure=EVIL)
    listed = run_pages.listing(['demo'], results)
    listed = pd.concat([listed[listed.Run != SPECS[3].run_id], listed[listed.Run == SPECS[3].run_id]], ignore_index=True)
    (tmp_path/'page.html').write_text(f'<!doctype html><meta charset="utf-8">{run_pages.search_table(listed)}')
    plain = BeautifulSoup((tmp_path/'page.html').read_text(), 'html.parser')
    assert len(plain.select('tbody tr')) == 5 and 'looks through all 37' in plain.get_text() and 'JavaScript' in plain.noscript.get_text()
    def rows(fragment):
        page = searched(tmp_path/'page.html', fragment)
        return page, [tr for tr in page.select('table.runs tbody tr') if not tr.has_attr('hidden')]
    page, shown = rows('')
    assert len(shown) == 5 and page.find(id='runs-shown').get_text() == '5 of 37 runs shown; 37 fit'
    page, shown = rows('#q=logit+not%20run')
    assert len(shown) == 5 and page.find(id='runs-shown').get_text() == '5 of 37 runs shown; 8 fit'
    page, (row,) = rows(f'#q={SPECS[3].run_id}')
    monkeypatch.setattr(run_pages, 'MOST_ROWS', 100)
    whole = BeautifulSoup(run_pages.search_table(listed), 'html.parser').select('tbody tr')[-1]
    assert str(row) == str(whole) and row.a['href'] == run_address(SPECS[3].run_id) and EVIL in row.get_text()  # as it would be in the table
    assert not page.select('[onerror], img') and '</script' not in page.find(id='runs-rest').get_text()


# --- the search

@pytest.mark.skipif(not shutil.which('chromium'), reason='no chromium: the search field cannot be tried')
@pytest.mark.parametrize('fragment, shown', [('', 38), ('#q=demo/r50w8-r18w8/logit/a0.5-t4', 3), ('#q=LOGIT+not%20run', 8), ('#q=failed', 1), ('#q=nothing+like+this', 0)])
def test_the_address_filters_the_table(results, tmp_path, fragment, shown):
    records.write_record({**{k: v for k, v in records.read_record(SPECS[2].run_id, results).items() if k != 'schema_version'}, 'run_id': 'demo/mine'}, results)
    (tmp_path/'page.html').write_text(f'<!doctype html><meta charset="utf-8">{run_pages.search_table(run_pages.listing(["demo"], results))}')
    page = searched(tmp_path/'page.html', fragment)
    rows = page.select('table.runs tbody tr')
    assert len(rows) == 38 and len([r for r in rows if not r.has_attr('hidden')]) == shown
    said = page.find(id='runs-shown')
    assert said.get_text() == f'{shown} of 38 runs shown' and said['aria-live'] == 'polite' and not page.form.has_attr('hidden')


def test_without_script_all_rows_are_there_and_no_dead_field(results):
    page = BeautifulSoup(run_pages.search_table(run_pages.listing(['demo'], results)), 'html.parser')
    assert page.form.has_attr('hidden') and page.form.label['for'] == page.form.input['id'] and len(page.select('tbody tr:not([hidden])')) == 37


def test_the_name_of_a_run_may_break_at_its_parts(results):
    "On a phone the column of names is narrow; a name broken within a word is hard to read."
    page = BeautifulSoup(run_pages.search_table(run_pages.listing(['demo'], results)), 'html.parser')
    for cell in page.select('tbody td:first-child'):
        assert len(cell.select('wbr')) == cell.get_text().count('/') + cell.get_text().count('_')


def test_no_figure_of_a_study_without_a_gain(tmp_path):
    "Axes without a mark say nothing that the sentence beside them does not."
    nothing = pages.Report([pages.Study('demo', tmp_path)], tmp_path)
    for section in sections.gains_section, sections.tested_gains_section, sections.moderation_section, sections.equivalence_section:
        blocks = list(section(nothing))
        assert blocks and not [b for b in blocks if isinstance(b, pages.Figure)], section
