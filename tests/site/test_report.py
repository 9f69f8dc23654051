"""What the pages of the report say, from no runs and from several studies."""
import json
import re
import shutil
import subprocess

import pytest
from conftest import ROOT
from made_up import write
from sites import HOSTILE, copy_repository, execute, make_site, pages_of, soup

from kd_capacity import claims, config, records, statistics


def table(page, *heads):
    "Rows, as dicts, of the table with these headings."
    for t in page.select('table'):
        names = [th.get_text() for th in t.select('thead th')]
        if set(heads) <= set(names): return [dict(zip(names, [td.get_text() for td in tr.select('td')])) for tr in t.select('tbody tr')]
    raise AssertionError(f'no table with {heads}')


def drawn(page):
    "How many figures a page has; each has a text alternative and a caption."
    figures = page.select('figure.plot')
    assert all(f.select_one('svg[role=img]')['aria-label'] and f.figcaption.get_text().strip() for f in figures)
    assert not page.select('img:not([alt])')
    return len(figures)


def test_report_without_runs_says_so(empty):
    page = soup(empty/'pages'/'report'/'analysis.html')
    assert 'No gain can be computed yet' in [h.get_text() for h in page.select('h2')]
    rows = table(page, 'Gain, pp')
    assert len(rows) == 6 and {r['Accuracy, %'] for r in rows} == {'not run'} and {r['Gain, pp'] for r in rows} == {''}
    assert [r['paper v1'] for r in rows] == ['+0.21', '+0.08', '+0.00', '+0.18', '+0.21', '+0.30']
    assert 'make study PROFILE=demo' in page.get_text() and 'no evidence on CIFAR-10' in page.get_text()


def test_report_shows_the_numbers_of_the_records(full):
    page = soup(full/'pages'/'report'/'analysis.html')
    rows = table(page, 'Gain, pp')
    demo, v1 = [r for r in rows if r['Profile'] == 'demo'], [r for r in rows if r['Profile'] == 'paper-v1']
    assert len(demo) == len(v1) == 6
    for r in demo:
        assert float(r['Gain, pp'].replace('−', '-')) == pytest.approx(float(r['Accuracy, %'].split()[0]) - float(r['Baseline, %'].split()[0]), abs=0.011)
        assert (r['n'], r['Seeds']) == ('3', '0–2') and re.fullmatch(r'\[[+−]\d+\.\d\d, [+−]\d+\.\d\d\]', r['95 % interval, pp'])
    assert {r['Accuracy, %'] for r in v1} == {'not run'}
    teachers = [r for r in table(page, 'Network', 'Role') if r['Profile'] == 'paper-v1' and r['Role'] == 'teacher']
    assert [(r['n'], r['95 % interval, %']) for r in teachers] == [('1', 'n = 1: no interval'), ('0 of 1', '')]
    assert drawn(page) >= 4


def captions(page, words): return [c.get_text() for c in page.select('figcaption') if words in c.get_text()]


def test_training_and_fidelity_show_the_numbers_of_the_records(full, tmp_path):
    demo = config.study_runs('demo')
    write(demo, tmp_path)  # the numbers of `full`
    def ours(m): return [s.run_id for s in demo if (s.stage, s.method, s.student) == ('final', m, 'resnet18') and s.teacher in (None, 'resnet50')]
    page = soup(full/'pages'/'report'/'training.html')
    convergence, = captions(page, 'demo, R50 → R18. Highest validation accuracy')
    for m, said in (('none', 'no teacher'), ('logit', 'Logit-KD'), ('feature', 'Feature-KD')):
        last = [records.history(i, tmp_path).validation_accuracy.iloc[-1] for i in ours(m)]
        assert f'{said} {100*sum(last)/3:.2f} %' in convergence
    assert 'Logit-KD +2.00 pp (seeds +2.00 to +2.00)' in captions(page, 'demo, R50 → R18. Training minus validation accuracy')[0]
    assert 'Feature-KD (n = 3): student in 12, projections in 0, total in 12 of 12 epochs' in captions(page, 'demo, R50 → R18. Largest norm')[0]
    assert 'teachers (n = 2) from 0.1 to 0.00417 over 24 epochs' in captions(page, 'demo. Learning rate')[0]
    page = soup(full/'pages'/'report'/'fidelity.html')
    row = next(r for r in table(page, 'Agreement with the teacher, %') if (r.get('Profile', 'demo'), r['Pair'], r['Method']) == ('demo', 'R50 → R18', 'Logit-KD'))
    recorded = [records.read_record(i, tmp_path)['fidelity']['agreement'] for i in ours('logit')]
    assert row['Agreement with the teacher, %'].split()[0] == f'{100*sum(recorded)/3:.2f}' and row['n'] == '3'
    teacher, mine = (records.logits(i, tmp_path)['best'].argmax(1) for i in (demo[0].run_id, ours('logit')[0]))
    assert teacher.shape == mine.shape
    apart = sum(100*(teacher != records.logits(i, tmp_path)['best'].argmax(1)).mean() for i in ours('logit'))/3
    assert f'Logit-KD {apart:.1f} % (n = 3)' in captions(page, 'demo, R50 → R18. Test images on which')[0]
    errors = [statistics.calibration_error(*(records.logits(i, tmp_path)[k] for k in ('best', 'labels'))) for i in ours('logit')]
    assert f'Logit-KD {100*sum(errors)/3:.1f} % (n = 3,' in captions(page, 'demo, R50 → R18. Expected calibration error')[0]


def test_training_and_fidelity_without_runs_say_so(empty):
    training, fidelity = (soup(empty/'pages'/'report'/f'{name}.html') for name in ('training', 'fidelity'))
    assert 'Nothing can be drawn: not run' in training.get_text() and 'no learning rate is recorded' in training.get_text()
    assert fidelity.get_text().count('no student has been run') == 3 and {r['Agreement with the teacher, %'] for r in table(fidelity, 'Agreement with the teacher, %')} == {'not run'}
    assert not training.select('figure') and not fidelity.select('figure')


def test_statistics_judge_every_claim(full):
    page = soup(full/'pages'/'report'/'statistics.html')
    rows = table(page, 'Claim', 'Verdict')
    assert len(rows) == 11 and all(r['Verdict'].startswith('inconclusive') for r in rows)  # digits decide nothing
    assert any('on digits' in r['Verdict'] for r in rows)
    assert {'Gains', 'Moderation', 'What could have been found', 'Selection on the test set', 'The clipping defect'} <= {h.get_text() for h in page.select('h2')}
    assert drawn(page) >= 8
    printed = [t for t in page.select('table') if 'not printed' in t.get_text()]
    assert printed and 'not CIFAR-10' in page.get_text()


def test_statistics_without_runs_say_so(empty):
    page = soup(empty/'pages'/'report'/'statistics.html')
    assert 'Of 11 claims 0 supported, 0 contradicted, 11 inconclusive' in [h.get_text() for h in page.select('h2')]
    assert 'not run' in page.get_text() and '1 supported, 0 contradicted, 10 inconclusive' in page.get_text()  # the printed table has its verdicts


def test_authors_runs_make_the_whole_report(tmp_path):
    "On a made-up archive in the authors' format: both pages, and a label on every page."
    from archives import archive, members
    root = copy_repository(tmp_path/'site', chapters=False)
    records.import_authors(archive(tmp_path/'small.zip', members()), tmp_path/'results')
    execute(root, profiles='authors', results=str(tmp_path/'results'))
    (root/'_build'/'records').write_text('authors\n')
    site = make_site(root)
    assert all('were not trained by this package' in soup(p).get_text() for p in pages_of(site))
    assert len(table(soup(site/'pages'/'report'/'analysis.html'), 'Gain, pp')) == 2
    fidelity = soup(site/'pages'/'report'/'fidelity.html').get_text()
    assert 'no logits, so no control' in fidelity and 'nothing to compare: no logits' in fidelity
    assert captions(soup(site/'pages'/'report'/'training.html'), 'Highest validation accuracy') and 'no learning rate is recorded' in soup(site/'pages'/'report'/'training.html').get_text()
    rows = runs_of(site)
    assert len(rows) == 16 and {r['Seconds'] for r in rows.values()} == {''} and sum('copy of' in r['Status'] for r in rows.values()) == 3
    cost, how = (soup(site/'pages'/'report'/f'{n}.html').get_text() for n in ('cost', 'reproduce'))
    assert '13 trainings; no seconds and no device recorded' in cost and 'archive has no timings' in cost
    assert '16 runs were imported from small.zip' in how and 'the paper’s own' in how
    assert 'n = 5' not in soup(site/'pages'/'report'/'analysis.html').get_text() and len(table(soup(site/'pages'/'report'/'statistics.html'), 'Claim', 'Verdict')) == 11


def test_own_runs_have_no_label(full): assert 'The authors’ runs' not in soup(full/'index.html').get_text()


def test_make_report_on_the_authors_runs_needs_their_archive():
    say = lambda *args: subprocess.run(['make', '-o', '.venv/.ready', 'report', *args], cwd=ROOT, capture_output=True, text=True)
    done = say('RUNS=authors')
    assert done.returncode and 'RUNS=authors needs AUTHORS_ZIP=' in done.stderr and len(done.stderr.strip().split('\n')) == 2
    assert 'allowed: ours, authors' in say('RUNS=athors').stderr


def test_text_of_a_record_is_text(full):
    for path in pages_of(full):
        page = soup(path)
        code = page.select('script:not([type="application/json"])')  # the explorer's data are no code, and escaped
        assert not any('alert(' in s.get_text() for s in code), path.name
        assert not page.select('a[href^="javascript"]')
    failed = [r for r in table(soup(full/'pages'/'report'/'runs.html'), 'Run', 'Status') if r['Status'] == 'failed']
    assert len(failed) == 1 and HOSTILE in failed[0]['Why, or how to train it']


# --- runs, cost, reproduce

def runs_of(site): return {r['Run']: r for r in table(soup(site/'pages'/'report'/'runs.html'), 'Run', 'Status')}


def test_runs_page_lists_every_run_with_the_numbers_of_its_record(full):
    rows, demo, v1 = runs_of(full), config.study_runs('demo'), config.study_runs('paper-v1')
    assert list(rows) == [s.run_id for s in (*demo, *v1)]
    for spec in demo[:-1]:
        page = full/'runs'/spec.run_id
        r, outcome = rows[spec.run_id], json.loads((page/'record.json').read_text())['outcome']
        assert (r['Status'], r['Stage'], r['Epochs'], r['Device'], r['Seconds']) == ('complete', spec.stage, str(spec.epochs), 'cpu', '9.0')
        assert (r['Test best, %'], r['Test last, %']) == tuple(f'{100*outcome[k]:.2f}' for k in ('test_best', 'test_final'))
    missing = [rows[s.run_id] for s in v1[1:]]
    assert {r['Status'] for r in missing} == {'not run'} and {r['Test best, %'] for r in missing} == {''}
    for s, r in zip(v1[1:], missing): assert config.papermill_command(s, 'out/run.ipynb') in r['Why, or how to train it']


def test_every_run_with_a_record_leads_to_its_page(full):
    links = {a.get_text(): a['href'] for a in soup(full/'pages'/'report'/'runs.html').select('table.runs a')}
    assert set(links) == {s.run_id for s in (*config.study_runs('demo'), config.study_runs('paper-v1')[0])}
    for run_id, href in links.items(): assert soup(full/'pages'/'report'/href).h1.get_text() == run_id
    for path in (full/'runs').rglob('index.html'):
        for a in soup(path).select('a[href]'):
            if not a['href'].startswith('#'): assert (path.parent/a['href'].split('#')[0]).resolve().exists(), (path, a['href'])


def test_cost_adds_up(full):
    page, results = soup(full/'pages'/'report'/'cost.html'), {}
    rows = [r for r in table(page, 'Stage', 'Device-seconds') if r['Profile'] == 'demo']
    assert sum(int(r['Runs']) for r in rows) == 36 and sum(float(r['Device-seconds']) for r in rows) == 36*9  # one failed
    assert {r['Seconds a run'] for r in rows} == {'9.0'} and {r['Images/s (median)'] for r in rows} == {'1,000'}
    left = {r['Profile']: r for r in table(page, 'Runs left')}
    assert (left['demo']['Runs left'], left['paper-v1']['Runs left']) == ('1', '36')
    specs = config.study_runs('demo')
    from kd_capacity.study import arithmetic, flops
    assert left['demo']['FLOP'] == arithmetic(flops(specs[-1]))
    assert arithmetic(sum(map(flops, specs[:-1]))) in page.get_text() and '324 device-seconds' in page.get_text()
    assert {r['Study']: r['Runs'] for r in table(page, 'Study', 'Fast engine')} == {'paper-v1': '37', 'paper-v2': '120'}
    assert len(page.select('figure.plot svg[aria-label]')) == 3 and len(table(page, 'Device', 'GFLOP/s')) == 2


def test_reproduce_names_surroundings_data_and_deviations(full):
    page = soup(full/'pages'/'report'/'reproduce.html')
    assert {(r['Profile'], r['Runs']) for r in table(page, 'Git commit')} == {('demo', '37'), ('paper-v1', '1')}
    assert {(r['Data'], r['Runs'], r['SHA-256']) for r in table(page, 'SHA-256')} == {('digits', '37', 'ab'), ('cifar10', '1', 'ab')}
    differs = {r['Choice']: (r['paper-v2'], r['demo']) for r in table(page, 'Choice')}
    assert differs['width'] == ('64', '8') and differs['data'] == ('cifar10', 'digits') and 'batch_size' not in differs
    assert 'paper-v1 beside paper-v1: none.' in page.get_text() and '36 of 37 runs are complete, 1 failed' in page.get_text()
    assert 'eprint        = {2605.31191}' in page.get_text() and 'author ' not in page.get_text().split('@misc')[1]
    for s in config.study_runs('demo')[:1]: assert config.papermill_command(s, 'out/teacher.ipynb') in page.get_text()


def test_without_runs_cost_and_reproduce_say_so(empty):
    cost, how = (soup(empty/'pages'/'report'/f'{n}.html').get_text() for n in ('cost', 'reproduce'))
    assert 'no run is complete yet' in cost and 'No machine has been measured yet' in cost and 'none is finished' in cost
    assert 'No run has a record yet' in how and '0 of 37 runs are complete' in how and 'papermill nbs/experiments/teacher.ipynb' in how
    assert {r['Status'] for r in runs_of(empty).values()} == {'not run'} and not (empty/'runs').exists()


def test_images_that_are_not_here_have_no_flop(tmp_path, monkeypatch):
    "Runs on an image folder: the page is there, and says unknown."
    (tmp_path/'profiles').mkdir()
    for p in (ROOT/'workflow'/'profiles').glob('*.toml'): shutil.copy(p, tmp_path/'profiles')
    (tmp_path/'profiles'/'mine.toml').write_text('description = "Mine"\nextends = "demo"\n[run]\ndata = "image_folder"\n')
    monkeypatch.setenv('KD_PROFILES', str(tmp_path/'profiles'))
    monkeypatch.delenv('KD_IMAGE_FOLDER', raising=False)
    specs = config.study_runs('mine')
    write(specs[:3], tmp_path/'results', failure={specs[1].run_id: 'lost'})
    root = copy_repository(tmp_path/'site', chapters=False)
    execute(root, 'cost', profiles='mine', results=str(tmp_path/'results'))
    make_site(root)
    page = soup(root/'_site'/'pages'/'report'/'cost.html')
    assert {r['FLOP together'] for r in table(page, 'FLOP together')} == {'unknown'} and table(page, 'Runs left')[0]['FLOP'] == 'unknown'
    assert table(page, 'Runs left')[0]['Runs left'] == '35' and 'unknown GFLOP/s' in page.get_text()


def test_front_page_answers_beside_what_the_paper_says(full):
    words = {c.id: c.wording for c in claims.CLAIMS}
    for (claim, question), item in zip(claims.QUESTIONS.items(), soup(full/'index.html').select('ol.answers > li'), strict=True):
        assert item.strong.get_text() == question and words[claim] in item.select_one('.claim').get_text()
        judged = dict(b.get_text().split(': ') for b in item.select('.badge'))
        assert list(judged) == ['demo', 'paper-v1', 'the printed table (v2)', 'the authors’ runs']
        assert judged['demo'].endswith(' on digits') and judged['the authors’ runs'] == 'not imported' and judged['paper-v1'] in claims.VERDICTS


