"""The explorer: what its data say against the records, and the page in a real browser."""
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from conftest import ROOT, SHARED
from made_up import write
from sites import copy_repository, execute, keep_pages, make_site, notebook

from kd_capacity import config, explorer, figures, records, staging, statistics, tables
from kd_capacity.show import theme_file

STUDIES = 'paper', 'demo', 'paper-v2'  # the paper's own runs stand beside every study
HOSTILE = '</script><!--<script><img src=x onerror="window.hacked=1">{{< include /etc/passwd >}} & \u2028'


def hostile_record(results):
    "A run outside the plan with markup wherever a record has text."
    spec = config.run_spec('demo', 'student', teacher='resnet50', student='resnet18', method='logit')
    run_id = 'demo/<img src=x onerror=window.hacked=1>/s0'
    text = spec.to_dict() | dict(method=HOSTILE, teacher=HOSTILE, teacher_run=HOSTILE, student=HOSTILE)
    records.write_record({'run_id': run_id, 'status': 'failed', 'failure': HOSTILE, 'spec': text, 'outcome': {'test_best': .5, 'best_epoch': 1},
                          'data': {'name': HOSTILE, 'sha256': HOSTILE}, 'environment': {'device_name': HOSTILE, 'git_commit': HOSTILE}}, results)


def some_runs(results):
    "All of the demo, with a failed run and a hostile one; of paper-v2 a teacher, R18's baselines and a selection."
    demo, v2 = config.study_runs('demo'), config.study_runs('paper-v2')
    write(demo, results, failure={demo[-1].run_id: HOSTILE})
    pair = lambda s: (s.teacher, s.student) == ('resnet50', 'resnet18') and s.stage == 'select'
    wanted = [s for s in v2 if (s.role == 'teacher' and s.teacher == 'resnet50' and s.seed == 0) or (s.role == 'baseline' and s.student == 'resnet18' and s.stage == 'final') or pair(s)]
    write(wanted, results)
    hostile_record(results)
    return results


@pytest.fixture(scope='module')
def results(tmp_path_factory): return some_runs(tmp_path_factory.mktemp('results'))


@pytest.fixture(scope='module')
def site(results, tmp_path_factory):
    "The website by pandoc with the explorer executed as `make report` does."
    root = copy_repository(tmp_path_factory.mktemp('site'), chapters=False)
    keep_pages(root, 'index.ipynb', 'report/explorer.ipynb')
    execute(root, 'explorer', profiles='demo, paper-v2', results=str(results))
    return make_site(root)


@pytest.fixture(scope='module')
def address(site): return (site/'pages'/'report'/'explorer.html').as_uri()


@pytest.fixture(scope='module')
def demo(address): return f'{address}#profile=demo'


@pytest.fixture(scope='module')
def data(site):
    page = BeautifulSoup((site/'pages'/'report'/'explorer.html').read_text(encoding='utf-8'), 'html.parser')
    return json.loads(page.find(id='explorer-data').string)


def cell_of(d, **values): return next(c for c in d['cells'] if all(c[k] == v for k, v in values.items()))


# --- the data

def test_data_of_the_page_are_those_of_the_module(site, data, results):
    "Neither staging nor pandoc nor the last touch on the HTML changes a script."
    assert data == json.loads(explorer.as_json(explorer.data(STUDIES, results)))
    text = (site/'pages'/'report'/'explorer.html').read_text(encoding='utf-8')
    assert explorer.vega() in text and theme_file('explorer.js') in text and theme_file('explorer.css') in text
    shown = text[text.index('<main'):text.index('</main')]
    assert shown.count('</script') == 3 and '<!--' not in text and '{{<' not in text
    assert len(text.encode()) - len(explorer.as_json(data).encode()) < 3e6


@pytest.mark.parametrize('metric', statistics.METRICS)
def test_gains_are_those_of_tables(data, results, metric):
    for name in 'demo', 'paper-v2':
        for g in tables.gains(tables.planned(name, results), metric).to_dict('records'):
            if pd.isna(g['gain']): continue
            cell = cell_of(data, profile=name, teacher=g['teacher'], student=g['student'], method=g['method'], alpha=f"{g['alpha']:g}", runs='final')
            found = cell['numbers'][metric]
            assert found['mean'] == pytest.approx(g['mean']) and found['n'] == tables.count(g)
            told = found['compared'][0]
            assert [told[k] for k in ('gain', 'low', 'high', 'n', 'n_other')] == pytest.approx([g[k] for k in ('gain', 'ci_low', 'ci_high', 'n', 'n_baseline')])
            assert told['text'] == config.signed(g['gain']) + ' pp'


def test_fidelity_is_that_of_tables_and_statistics(data, results):
    runs = tables.planned('demo', results)
    for f in tables.fidelity(runs, results).to_dict('records'):
        if f['method'] == 'none': continue
        told = cell_of(data, profile='demo', teacher=f['teacher'], student=f['student'], method=f['method'], runs='final')['numbers']['agreement']['compared'][0]
        assert [told['gain'], told['low'], told['high']] == pytest.approx([f['gain'], f['ci_low'], f['ci_high']])
    for f in statistics.fidelity_tests(runs, results).to_dict('records'):
        told = cell_of(data, profile='demo', teacher=f['teacher'], student=f['student'], method=f['method'], runs='final')['numbers'][f['measure']]
        assert told['mean'] == pytest.approx(f['mean']) and told['compared'][0]['gain'] == pytest.approx(f['estimate'])


def test_selection_against_the_baseline(data, results):
    runs = tables.planned('paper-v2', results)
    base = runs[runs.role.eq('baseline') & runs.student.eq('resnet18') & runs.stage.eq('final')].test_best
    selected = runs[runs.stage.eq('select') & runs.teacher.eq('resnet50') & runs.student.eq('resnet18')]
    assert len(selected) == 12
    for r in selected.to_dict('records'):
        t = 'none' if pd.isna(r['temperature']) else f"{r['temperature']:g}"
        told = cell_of(data, profile='paper-v2', teacher='resnet50', student='resnet18', method=r['method'], alpha=f"{r['alpha']:g}", temperature=t, runs='select')['numbers']['test_best']
        d = statistics.difference([r['test_best']], base)
        assert told['compared'][0]['gain'] == pytest.approx(d['gain']) and told['compared'][0]['interval'] == 'n = 1: no interval' and told['compared'][0]['low'] is None


def test_ablations_are_those_of_tables(data, results):
    runs = tables.planned('demo', results)
    c = tables.clipping_ablation(runs).dropna(subset='gain').iloc[0]
    told = cell_of(data, profile='demo', stage='clipping')['numbers']['test_best']['compared']
    assert [t['over'].split()[0] for t in told] == ['gain', 'difference']
    assert told[1]['gain'] == pytest.approx(c.gain) and told[1]['low'] == pytest.approx(c.ci_low)
    for s in tables.stem_ablation(runs).dropna(subset='gain').to_dict('records'):
        cells = [c for c in data['cells'] if c['stage'] == 'stem' and c['student'] == s['student'] and c['profile'] == 'demo']
        assert cells and all(c['numbers']['test_best']['compared'][0]['gain'] == pytest.approx(s['gain']) for c in cells)


def test_runs_are_those_of_the_records(data, results):
    runs = pd.concat([t(name, results) for name in STUDIES for t in (tables.planned, tables.unplanned)])
    assert sorted(r['id'] for r in data['runs']) == sorted(runs.run_id)
    by_id = {r['id']: r for r in data['runs']}
    for row in runs.to_dict('records'):
        r = by_id[row['run_id']]
        assert r['status'] == {'missing': 'not run'}.get(row['status'], row['status'])
        for m in explorer.SHOWN_METRICS: assert r['values'][m] == explorer.shown(m, row[m])
        if row['profile'] == 'paper': continue
        history = results/row['run_id']/'history.csv'
        if not history.exists(): assert r['curves'] == {}; continue
        h = pd.read_csv(history)
        assert r['curves']['train_accuracy'] == pytest.approx((100*h.train_accuracy).tolist(), abs=.005) and len(r['curves']['loss_total']) == len(h)


def test_command_makes_the_run(data):
    specs = {s.run_id: s for name in ('demo', 'paper-v2') for s in config.study_runs(name)}
    known = [r for r in data['runs'] if r['id'] in specs]
    assert len(known) > 100 and all(r['command'] == config.papermill_command(specs[r['id']], 'out/run.ipynb') for r in known)
    assert {r['command'] for r in data['runs'] if r['id'] not in specs} == {None}  # finals before the selection, the hostile run, the paper's own runs


def test_paper_has_curves_of_two_accuracies_and_neither_page_nor_command(data):
    published = ROOT/'results'/'published'
    curves = pd.read_csv(published/'curves.csv').groupby('run_id')
    runs = pd.read_csv(published/'runs.csv').to_dict('records')
    by_id = {r['id']: r for r in data['runs']}
    assert len(runs) == sum(r['id'].startswith('paper/') for r in data['runs']) == 126
    for row in runs:
        r = by_id[f'paper/{row["run_id"]}']
        assert (r['page'], r['command'], r['ours'], r['teacher']) == (None, None, False, None)
        twice = isinstance(row['duplicate_of'], str)
        rows = curves.get_group(row['duplicate_of'] if twice else row['run_id'])
        assert set(r['curves']) == {'train_accuracy', 'validation_accuracy'}
        for name, values in r['curves'].items(): assert values == pytest.approx((100*rows[name]).tolist(), abs=.005)
        told = dict(r['told'])
        assert told['Best epoch'] == f"{row['validation_best_epoch']:.0f} of {row['epochs']}"
        assert told.get('The same training as') == (f'paper/{row["duplicate_of"]}' if twice else None)


def test_every_cell_has_its_own_choice(data):
    chosen = [tuple(c[k] for k in data['names']) for c in data['cells']]
    assert len(set(chosen)) == len(chosen)
    for c in data['cells']: assert all(c[k] in dict(data['choices'][k]) for k in data['names'])


def test_a_further_seed_does_not_move_the_numbers(tmp_path):
    specs = [s for s in config.study_runs('demo') if s.stage in ('final', 'teacher') and 'resnet34' not in (s.teacher, s.student)]
    write(specs, tmp_path)
    before = explorer.data(['demo'], tmp_path)
    write([specs[-1].replace(seed=7)], tmp_path)
    after = explorer.data(['demo'], tmp_path)
    extra = [c for c in after['cells'] if not c['planned']]
    assert [c['runs'] for c in extra] == ['final, outside the plan']
    kept = {c['name']: c['numbers'] for c in after['cells'] if c['planned']}
    assert json.loads(explorer.as_json(kept)) == json.loads(explorer.as_json({c['name']: c['numbers'] for c in before['cells']}))


def test_lost_and_broken_files(tmp_path):
    "A run without a history, with a history of rubbish, without logits: no curves, and the rest stands."
    specs = [s for s in config.study_runs('demo') if s.stage in ('final', 'teacher') and 'resnet34' not in (s.teacher, s.student)]
    write(specs, tmp_path)
    (tmp_path/specs[1].run_id/'history.csv').unlink()
    (tmp_path/specs[2].run_id/'history.csv').write_text('epoch,loss_total\nx,y\n')
    (tmp_path/specs[3].run_id/'history.csv').write_bytes(b'\xff\x00')
    for s in specs: (tmp_path/s.run_id/'logits.npz').unlink()
    runs = {r['id']: r for r in explorer.data(['demo'], tmp_path)['runs']}
    assert [runs[s.run_id]['curves'] == {} for s in specs[:5]] == [False, True, True, True, False]


@pytest.mark.skipif(not (SHARED/'reference'/'authors_runs.zip').exists(), reason='the authors’ archive is not here')
def test_authors_runs(tmp_path):
    imported = records.import_authors(SHARED/'reference'/'authors_runs.zip', tmp_path)
    d = explorer.data(['authors'], tmp_path)
    assert len(d['runs']) == len(imported) == 126 and {r['command'] for r in d['runs']} == {None} and not any(r['ours'] for r in d['runs'])
    g = tables.gains(imported).set_index(['teacher', 'student', 'method']).loc[('resnet50', 'resnet34', 'feature')]
    assert cell_of(d, teacher='resnet50', student='resnet34', method='feature', runs='final')['numbers']['test_best']['compared'][0]['gain'] == pytest.approx(g.gain)
    assert len(explorer.as_json(d)) < 600_000
    both = explorer.data(['demo', 'authors'], tmp_path)
    assert [v for v, _ in both['choices']['profile']] == ['demo', 'authors'] and len(both['runs']) == 126 + 37


def test_from_nothing(tmp_path):
    assert explorer.data(['authors'], tmp_path)['cells'] == []
    d = explorer.data(['paper-v2'], tmp_path)
    assert {r['status'] for r in d['runs']} == {'not run'} and all(c['numbers']['test_best']['sentence'].endswith('not run.') for c in d['cells'])


def test_numbers_that_are_none():
    with pytest.raises(ValueError): json.dumps(np.nan, allow_nan=False)
    assert explorer.as_json([float('inf'), -float('inf'), np.float32('nan'), None]) == '[null,null,null,null]'


# --- the page in a browser

@pytest.fixture
def visit(browser):
    "A function that opens an address; at the end, no error, no warning and no request to another machine may have happened."
    contexts, wrong = [], []
    def to(address, ready='.app:not([hidden]) .record .id', width=1280, **options):
        context = browser.new_context(viewport={'width': width, 'height': 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on('console', lambda m: wrong.append(f'{m.type}: {m.text}'))
        page.on('pageerror', lambda e: wrong.append(str(e)))
        page.on('request', lambda r: None if r.url.startswith(('file:', 'data:')) else wrong.append(r.url))
        page.goto(address)
        if ready: page.wait_for_selector(ready)
        return page
    yield to
    for c in contexts: c.close()
    assert wrong == []


def pick(page, **values):
    for name, value in values.items(): page.select_option(f'#choose-{name}', value)


def number(page): return page.locator('.numbers strong').first.inner_text()
def offered(page, name): return page.eval_on_selector_all(f'#choose-{name} option', 'options => options.map(o => o.value)')
def chosen(page):
    read = 'all => Object.fromEntries(all.map(select => [select.name, select.value]))'
    return page.eval_on_selector_all('select[id^=choose-]', read)
def hash_of(page): return page.evaluate('Object.fromEntries(new URLSearchParams(location.hash.slice(1)))')


@pytest.mark.parametrize('metric', statistics.METRICS)
def test_choosing_shows_the_gains_of_tables(visit, demo, results, metric):
    page = visit(demo)
    assert hash_of(page)['profile'] == 'demo'
    pick(page, metric=metric)
    for g in tables.gains(tables.planned('demo', results), metric).to_dict('records'):
        pick(page, teacher=g['teacher'], student=g['student'], method=g['method'])
        assert chosen(page)['metric'] == metric
        assert number(page) == config.signed(g['gain']) + ' pp'
        assert page.locator('.number span').first.inner_text() == tables.interval(g['ci_low'], g['ci_high'], g['n'], g['n_baseline'])
        assert page.locator('.means tr').first.inner_text().replace('\xa0', ' ').split('\t')[1:] == [tables.mean_std(g['mean'], g['std'], g['n']) + ' %', f"n = {g['n']}"]
        assert config.signed(g['gain']) in page.locator('[aria-live=polite]').inner_text()
        rows = page.locator('.runs tbody tr')
        assert rows.count() == g['n'] and page.locator('.gains svg').count() == 1 and page.locator('.lines svg').count() == 1


def test_of_a_large_cell_the_first_runs_are_listed_and_the_page_says_so(visit, tmp_path, monkeypatch):
    specs = [s for s in config.study_runs('demo') if s.stage in ('final', 'teacher') and 'resnet34' not in (s.teacher, s.student)]
    write(specs, tmp_path)
    whole = explorer.data(['demo'], tmp_path)
    monkeypatch.setattr(explorer, 'MOST_OF_CELL', 2)
    few = explorer.data(['demo'], tmp_path)
    assert [c['numbers'] for c in json.loads(explorer.as_json(few))['cells']] == [c['numbers'] for c in json.loads(explorer.as_json(whole))['cells']]
    for before, after in zip(whole['cells'], few['cells'], strict=True):
        listed, kept = (d['runs'][slice(*c['runs_of'])] for d, c in ((whole, before), (few, after)))
        assert kept == listed[:2] and after['all'] == before['all'] == len(listed)
    (tmp_path/'page.html').write_text(f'<!doctype html><meta charset="utf-8">{explorer.page(["demo"], tmp_path)}')
    page = visit((tmp_path/'page.html').as_uri())
    assert 'The first 2 of 3 runs, by seed, are listed and drawn; the numbers above are of all.' in page.locator('.runs').inner_text()
    assert page.locator('.runs tbody tr').count() == 2 and '2 of 3 runs' in page.locator('.legend').inner_text()
    pick(page, teacher='resnet50', student='none')
    assert 'are listed and drawn' not in page.locator('.runs').inner_text()  # one teacher, shown whole


def test_every_choice_changes_what_is_shown(visit, demo):
    page = visit(demo)
    what = lambda: page.locator('.result').inner_text() + page.locator('.record').inner_text() + page.locator('.lines').get_attribute('aria-label')
    steps = [('teacher', 'resnet34'), ('method', 'feature'), ('metric', 'kl_t1'), ('curve', 'loss_total'), ('teacher', 'resnet50'), ('student', 'resnet34'),
             ('student', 'resnet18'), ('runs', 'clipping, student_only'), ('teacher', 'none'), ('student', 'resnet34'),
             ('runs', 'stem, imagenet'), ('profile', 'paper-v2'), ('teacher', 'resnet50'), ('student', 'resnet18'), ('alpha', '0.3'), ('temperature', '3'), ('student', 'none')]
    for name, value in steps:
        before = what()
        pick(page, **{name: value})
        assert chosen(page)[name] == value and what() != before, (name, value)
        assert hash_of(page)[name] == value


def test_every_study_can_be_chosen(visit, address, results):
    "The paper's own runs come first; their curves are drawn, and nothing else of a run is promised."
    page = visit(address)
    assert offered(page, 'profile') == [*STUDIES] and chosen(page)['profile'] == 'paper'
    cell = dict(teacher='resnet50', student='resnet18', method='feature')
    g = tables.gains(tables.planned('paper', results)).set_index([*cell]).loc[tuple(cell.values())]
    pick(page, **cell, alpha=f'{g.alpha:g}', runs='final')
    assert number(page) == config.signed(g.gain) + ' pp'
    assert offered(page, 'curve') == ['validation_accuracy', 'train_accuracy']
    page.wait_for_selector('.lines svg path[stroke]')
    assert page.locator('.record a').count() == 0 and page.locator('.command').count() == 0
    assert 'the authors’ runs' in page.locator('.record').inner_text()
    for name in reversed(STUDIES):
        pick(page, profile=name)
        assert chosen(page)['profile'] == hash_of(page)['profile'] == name
        assert page.locator('.record .id').inner_text().startswith(f'{name}/')


def test_only_what_there_is_is_offered(visit, demo, data):
    page = visit(demo)
    for teacher in offered(page, 'teacher'):
        pick(page, teacher=teacher)
        there = [c for c in data['cells'] if c['profile'] == 'demo' and c['teacher'] == teacher]
        assert set(offered(page, 'student')) == {c['student'] for c in there}
        for student in offered(page, 'student'):
            pick(page, student=student)
            assert set(offered(page, 'method')) == {c['method'] for c in there if c['student'] == student}
    pick(page, teacher='none')
    assert offered(page, 'alpha') == ['none'] and 'agreement' not in offered(page, 'metric')


def test_record_command_and_address(visit, demo, data):
    page = visit(demo, permissions=['clipboard-read', 'clipboard-write'])
    pick(page, teacher='resnet34', method='feature')
    page.locator('.runs input').nth(2).check()
    run = next(r for r in data['runs'] if r['id'] == hash_of(page)['run'])
    assert run['seed'] == '2' and page.locator('.record .id').inner_text() == run['id']
    assert page.locator('.record a').first.get_attribute('href') == f'../../runs/{run["id"]}/index.html'
    assert page.locator('.command pre').inner_text() == run['command'] and '-p seed 2' in run['command']
    page.get_by_role('button', name='Copy').click()
    page.wait_for_selector('.copied:has-text("Copied.")')
    assert page.evaluate('navigator.clipboard.readText()') == run['command']
    assert [[dt.inner_text(), dd.inner_text()] for dt, dd in zip(page.locator('.told dt').all(), page.locator('.told dd').all())] == run['told']
    page.get_by_role('link', name='its teacher').click()
    page.wait_for_selector(f'.record .id:has-text("{run["teacher"]}")')
    assert chosen(page)['student'] == 'none' and hash_of(page)['teacher'] == 'resnet34'


def tab_to(page, selector):
    for _ in range(80):
        page.keyboard.press('Tab')
        if page.evaluate('s => document.activeElement.matches(s)', selector): return
    raise AssertionError(f'Tab does not reach {selector}')


def arrow_to(page, name, value):
    "Press the arrow once towards a choice, which stands beside what is chosen."
    values = offered(page, name)
    page.keyboard.press('ArrowDown' if values.index(value) > values.index(chosen(page)[name]) else 'ArrowUp')
    assert chosen(page)[name] == value


def test_keyboard_alone(visit, demo, results):
    page = visit(demo)
    g = tables.gains(tables.planned('demo', results)).set_index(['teacher', 'student', 'method']).gain
    tab_to(page, '#choose-teacher')
    assert page.evaluate('getComputedStyle(document.activeElement).outlineStyle') == 'solid'
    arrow_to(page, 'teacher', 'resnet34')
    assert number(page) == config.signed(g['resnet34', 'resnet18', 'logit']) + ' pp'
    tab_to(page, '#choose-method')
    arrow_to(page, 'method', 'feature')
    assert number(page) == config.signed(g['resnet34', 'resnet18', 'feature']) + ' pp'
    tab_to(page, '.runs input')
    page.keyboard.press('ArrowDown')
    assert page.locator('.runs tr.chosen').inner_text().split()[0] == '1' and '-p seed 1' in page.locator('.command pre').inner_text()
    assert page.evaluate('document.activeElement.matches(".runs input:checked")')
    tab_to(page, '.command button')
    page.keyboard.press('Enter')
    page.wait_for_selector('.copied:not(:empty)')


@pytest.mark.parametrize('width', [390, 1280])
def test_no_sideways_scroll(visit, demo, width):
    page = visit(demo, width=width)
    for values in {}, dict(runs='final'), dict(method='feature', runs='clipping, student_only'), dict(teacher='none', runs='stem, imagenet'), dict(profile='paper-v2'):
        pick(page, **values)
        page.wait_for_timeout(150)
        page.evaluate('document.querySelectorAll("details").forEach(d => { d.open = true })')
        assert page.evaluate('[document.documentElement.scrollWidth, document.body.scrollWidth]') == [width, width], values
        wide = page.evaluate('w => [...document.querySelectorAll(".explorer *")].filter(e => !e.closest(".scroll, svg, .words") && e.getBoundingClientRect().right > w).length', width)
        assert wide == 0


def test_address_keeps_the_choice(visit, address, demo):
    page = visit(demo)
    pick(page, teacher='resnet50', student='resnet18', method='feature', runs='clipping, student_only', metric='validation_best', curve='loss_total')
    page.locator('.runs input').nth(1).check()
    state, shown, run = chosen(page), number(page), hash_of(page)['run']
    again = visit(page.url)
    assert (chosen(again), number(again), hash_of(again)['run']) == (state, shown, run)
    link = visit(f'{address}#profile=demo&teacher=resnet34&student=resnet18&method=feature')
    assert [chosen(link)[k] for k in ('teacher', 'student', 'method', 'runs')] == ['resnet34', 'resnet18', 'feature', 'final']
    link.evaluate('location.hash = "profile=demo&teacher=resnet50&student=resnet18&method=feature&runs=clipping"')
    link.wait_for_function('document.querySelector("#choose-runs").value.startsWith("clipping")')
    by_run = visit(f'{address}#run={run}')
    assert (chosen(by_run)['runs'], hash_of(by_run)['run']) == (state['runs'], run)


@pytest.mark.parametrize('part', ['curves', 'profile=nothing&teacher=<img src=x onerror=window.hacked=1>', 'a=b&&=', 'teacher=resnet34&student=resnet34&alpha=9', '%E0%A4%A=1'])
def test_address_that_is_no_choice(visit, address, part):
    page = visit(f'{address}#{part}')
    assert chosen(page)['profile'] == 'paper' and page.evaluate('window.hacked') is None


def test_text_of_a_record_stays_text(visit, demo, data):
    page = visit(demo)
    hostile = next(c for c in data['cells'] if c['teacher'] == HOSTILE)
    pick(page, teacher=hostile['teacher'])
    assert page.locator('.record .id').inner_text() == 'demo/<img src=x onerror=window.hacked=1>/s0'
    assert '<img src=x' in page.locator('.told').inner_text() and '<img src=x' in page.locator('.means, .numbers, .runs').all_inner_texts()[-1]
    page.locator('.lines').hover(force=True) if page.locator('.lines svg').count() else None
    failed = next(r for r in data['runs'] if ['Why it failed', HOSTILE] in r['told'] and r['status'] == 'failed')
    page.evaluate('run => { location.hash = new URLSearchParams({run}) }', failed['id'])
    page.wait_for_selector('.told:has-text("onerror")')
    assert page.evaluate('window.hacked') is None and page.locator('.explorer img').count() == 0 and page.locator('.explorer script').count() == 3
    assert page.locator('.record a').count() == 2  # its page and its teacher


def contrast(page, selector):
    "WCAG contrast of an element's text against the page."
    numbers = lambda text: [float(x) for x in re.findall(r'[\d.]+', text)[:3]]
    light = lambda rgb: sum(w*(c/12.92 if c <= .03928 else ((c + .055)/1.055)**2.4) for w, c in zip((.2126, .7152, .0722), (v/255 for v in rgb)))
    ink = numbers(page.eval_on_selector(selector, 'e => getComputedStyle(e).color'))
    paper = numbers(page.evaluate('getComputedStyle(document.body).backgroundColor'))
    a, b = sorted((light(ink), light(paper)))
    return (b + .05)/(a + .05)


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_light_and_dark(visit, demo, scheme):
    page = visit(demo, color_scheme=scheme)
    page.wait_for_selector('.lines svg path[stroke]')
    for selector in '.number strong', '.numbers .soft', '.choices span', '.runs td', '.told dt', '.command code': assert contrast(page, selector) >= 4.5, selector
    strokes = set(page.eval_on_selector_all('.lines path[stroke]', 'paths => paths.map(p => p.getAttribute("stroke").toLowerCase())'))
    for m in 'logit', 'none':
        expected = figures.colour(m) if scheme == 'light' else explorer.tint(figures.colour(m))
        assert expected.lower() in strokes
    page.emulate_media(color_scheme={'light': 'dark', 'dark': 'light'}[scheme])  # redrawn in the other colours
    other = explorer.tint(figures.colour('logit')) if scheme == 'light' else figures.colour('logit')
    page.wait_for_function('c => [...document.querySelectorAll(".lines path[stroke]")].some(p => p.getAttribute("stroke").toLowerCase() === c)', arg=other.lower())


def test_quarto_has_its_own_switch(visit, demo):
    page = visit(demo, color_scheme='light')
    dark = lambda: page.evaluate('getComputedStyle(document.querySelector(".explorer")).getPropertyValue("--dark").trim()')
    assert dark() == '0'
    page.evaluate('document.body.classList.add("quarto-dark")')
    assert dark() == '1'
    page.wait_for_function('c => [...document.querySelectorAll(".lines path[stroke]")].some(p => p.getAttribute("stroke").toLowerCase() === c)', arg=explorer.tint(figures.colour('logit')))
    page.emulate_media(color_scheme='dark')
    page.evaluate('document.body.className = "quarto-light"')
    assert dark() == '0'


def test_without_javascript(visit, address):
    page = visit(address, ready=None, java_script_enabled=False)
    assert 'needs JavaScript' in page.locator('.explorer').inner_text() and not page.locator('.app').is_visible()


def test_page_without_a_run(visit, tmp_path):
    path = tmp_path/'page.html'
    path.write_text(f'<!doctype html><html lang="en"><meta charset="utf-8"><body>{explorer.page(["authors"], tmp_path)}')
    assert visit(path.as_uri(), ready='.nothing:not([hidden])').locator('.app').is_hidden()
    path.write_text(f'<!doctype html><html lang="en"><meta charset="utf-8"><body>{explorer.page(["demo"], tmp_path)}')
    page = visit(path.as_uri())
    assert number(page) == 'not run' and 'No run has curves' in page.locator('.legend').inner_text() and 'papermill' in page.locator('.command').inner_text()


def test_page_of_one_run(visit, tmp_path):
    write(config.study_runs('demo')[:1], tmp_path)
    path = tmp_path/'page.html'
    path.write_text(f'<!doctype html><html lang="en"><meta charset="utf-8"><body>{explorer.page(["demo"], tmp_path)}')
    page = visit(f'{path.as_uri()}#student=none')
    assert 'n = 1: no interval' in page.locator('.numbers').inner_text() and page.locator('.lines svg').count() == 1


# --- what the site does with it

def test_scripts_inside_html_survive_staging():
    html = '<p>1 < 2</p><script>if (1 < 2 && 3 > 2) { a = "&amp;<table></table>" }</script>'
    output = nbformat.v4.new_output('display_data', {'text/html': html, 'text/plain': '<HTML>'})
    nb = nbformat.reads(notebook('# t', 'x', outputs=[output]), 4)
    page = staging.staged(nb, staging.Page(Path('nbs/report/t.ipynb'), 1))
    assert page.cells[-1].outputs[0].data['text/html'] == html
    assert html in staging.pandoc(staging.page_markdown(page))
