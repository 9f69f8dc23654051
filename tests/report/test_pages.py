"""What the pages of the report say: from no run, from made-up runs, and from the paper's own."""
import json
import re

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from conftest import ROOT
from made_up import cell, frame, write

from kd_capacity import claims, config, dose, findings, front, pages, records, sections, tables, wording
from kd_capacity.basics import UserError
from kd_capacity.pages import Figure, Fold, Sentence, Table, Text

FAILURE = '<script>alert("x")</script>'
PAGES = sorted((ROOT/'nbs'/'report').glob('[a-z]*.ipynb')) + [ROOT/'nbs'/'index.ipynb']


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    "Records of the demo with one failure, and of one run of another study."
    folder = tmp_path_factory.mktemp('results')
    demo = config.study_runs('demo')
    write(demo, folder, failure={demo[-1].run_id: FAILURE})
    write(config.study_runs('paper-v1')[:1], folder)
    return folder


@pytest.fixture(autouse=True)
def figures_are_closed():
    "Blocks that nobody shows keep their figures open."
    yield
    plt.close('all')


def report(profiles, results): return pages.open_report({'profiles': profiles, 'results': str(results)})


def inside(blocks):
    "Blocks with those that fold away."
    for block in blocks:
        yield block
        if isinstance(block, Fold): yield from inside(block.blocks)


def all_of(kind, blocks): return [b for b in inside(list(blocks)) if isinstance(b, kind)]


def rows_of(blocks, *heads):
    "The rows of the first table that has these headings."
    for table in all_of(Table, blocks):
        if set(heads) <= set(table.text): return table.text.to_dict('records')
    raise AssertionError(f'no table with {heads}')


def words_of(blocks):
    "Everything that is said."
    blocks = list(inside(list(blocks)))
    texts = [b.markdown for b in blocks if isinstance(b, Text)]
    texts += [f'{b.who}: {b.text}' for b in blocks if isinstance(b, Sentence)]
    return '\n'.join(texts + [b.title for b in blocks if isinstance(b, Fold)])


# --- the opening

@pytest.mark.parametrize('name', ['profile', 'result', 'seeds', 'report'])
def test_an_unknown_parameter_is_refused_by_name(name):
    with pytest.raises(UserError, match=name): pages.open_report({name: 'demo'})


def test_an_unknown_study_is_refused_with_the_nearest(results):
    with pytest.raises(UserError, match="Did you mean 'demo'"): report('dmeo', results)


def test_the_papers_own_runs_come_first_and_the_demo_last(results):
    assert report('', results).names == ['paper', 'paper-v1', 'demo']
    assert report('demo', results).names == ['paper', 'demo']
    assert report('', results/'nothing').names == ['paper']
    paper = report('', results).studies[0]
    assert (len(paper.runs), len(records.distinct(paper.runs))) == (126, 111)


@pytest.mark.parametrize('path', PAGES, ids=lambda p: p.stem)
def test_a_page_computes_nothing(path):
    "Its code opens the report and calls sections; everything else is prose."
    code = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == 'code']
    allowed = (r'#\| .*|from kd_capacity.*|report = open_report\(.*|report\.show\(.*|'
               r' +(sections|front)\.\w+[,)]|\w+ = ([\'"].*[\'"]|False|None|[\d.]+) *(#.*)?|')
    other = [line for cell in code for line in cell.splitlines() if not re.fullmatch(allowed, line)]
    assert not other


# --- what the sections say

def test_without_runs_results_say_so(results):
    r = report('published demo', results/'nothing')
    blocks = list(sections.gains_section(r))
    assert blocks[0].markdown == '## No gain can be computed yet in the demo'
    rows = rows_of(blocks, 'Gain, pp')
    assert {row['Accuracy, %'] for row in rows} == {'not run'}
    assert [row['paper v1'] for row in rows] == ['+0.21', '+0.08', '+0.00', '+0.18', '+0.21', '+0.30']
    assert 'No run is complete yet' in words_of(sections.cost_section(r))
    assert 'no learning rate is recorded' in words_of(sections.schedule_section(r))


def test_results_show_the_numbers_of_the_records(results):
    rows = rows_of(sections.gains_section(report('published demo', results)), 'Gain, pp')
    runs = records.load_runs(results/'demo')
    for row in rows:
        gain = float(row['Gain, pp'].replace('−', '-'))
        means = [float(row[head].split()[0]) for head in ('Accuracy, %', 'Baseline, %')]
        assert gain == pytest.approx(means[0] - means[1], abs=.011)
    student, method = rows[0]['Pair'].split(' → ')[1], rows[0]['Method']
    assert (student, method) == ('R18', 'Logit-KD')
    base = runs[(runs.stage == 'final') & (runs.role == 'baseline') & (runs.student == 'resnet18')]
    assert float(rows[0]['Baseline, %'].split()[0]) == pytest.approx(100*base.test_best.mean(), abs=.006)


def test_the_papers_runs_give_the_papers_gains(results):
    study = report('', results).studies[0]
    gains = study.gains.set_index(['teacher', 'student', 'method']).gain
    printed = pages.Study(findings.PRINTED_TABLE).gains.set_index(['teacher', 'student', 'method']).gain
    assert len(gains) == len(printed) == 8
    assert (gains - printed).abs().max() < .011


def test_the_demo_folds_away_behind_evidence(results):
    r = report('paper demo', results)
    blocks = list(sections.tested_gains_section(r))
    folds = [b for b in blocks if isinstance(b, Fold) and 'no evidence about CIFAR-10' in b.title]
    assert len(folds) == 1 and all_of(Figure, folds)
    assert not any(isinstance(b, Sentence) and b.who == 'the demo' for b in blocks)
    assert blocks[0].markdown.startswith('## Two of eight gains lie above zero')


def test_a_failed_run_is_named_and_its_text_is_text(results):
    html = ''.join(b.html for b in all_of(pages.Html, sections.runs_section(report('published demo', results))))
    assert FAILURE not in html and '&lt;script&gt;' in html
    assert '1 failed' in words_of(sections.runs_section(report('published demo', results)))


@pytest.mark.parametrize('section', [
    sections.agreement_section, sections.control_section, sections.classes_section,
    sections.disagreement_section, sections.calibration_section, sections.convergence_section,
    sections.gap_section, sections.norms_section, sections.accuracy_section,
    sections.selected_section, sections.clipping_section, sections.stem_section,
    sections.moderation_section, sections.power_section, sections.equivalence_section,
    sections.sensitivity_section, sections.limits_section, sections.deviations_section,
    sections.specification_section, sections.equal_gap_section, sections.noise_section],
    ids=lambda s: s.__name__)
@pytest.mark.parametrize('profiles', ['paper', 'published demo'])
def test_every_section_has_words_for_some_runs_and_for_none(section, profiles, results):
    for folder in results, results/'nothing':
        for block in inside(list(section(report(profiles, folder)))):
            if not isinstance(block, Figure): continue
            assert len(block.caption) > 20 and len(block.alt) > 20
            assert 'nan' not in block.caption.lower().split()


@pytest.mark.parametrize(('section', 'heading'), [
    (sections.accuracy_section, '## Accuracy of teachers 95.30 to 95.37 %, students without a teacher 94.86 to 95.04 %'),
    (sections.selected_section, '## 8 configurations selected, 8 of them as in the paper’s second version'),
    (sections.state_section, '## 126 of 126 runs complete'),
    (sections.effects_section, '## On average over the pairs Feature-KD +0.16 pp')], ids=lambda value: getattr(value, '__name__', ''))
def test_findings_are_the_headings(section, heading, results):
    first, *_ = section(report('', results))
    assert first.markdown.startswith(heading)


def test_networks_of_several_widths_are_not_added_up():
    cell = {'teacher': 'resnet34', 'teacher_width': 16, 'student': 'resnet18', 'method': 'logit', 'teacher_class': 0}
    d = pd.DataFrame([{**cell, 'width': w, 'student_class': k, 'share': share} for w, share in ((4, 10.), (8, 5.)) for k in (0, 1)])
    assert 'Logit-KD 5.0 to 10.0 %' in wording.disagreements_finding(d)


def test_classes_without_a_baseline_say_why(results):
    study = pages.Study('demo', results)
    table = tables.class_accuracy(study.runs, results).assign(gain=np.nan)
    assert sections._class_finding(study, table).endswith(': no baseline with logits')


def test_a_configuration_that_the_paper_did_not_select_is_not_counted(results):
    study = report('', results).with_runs[0]
    t, paper = tables.selected(study.runs), tables.published_table()
    t.loc[t.method.eq('logit'), 'temperature'] = 7.
    assert '8 configurations selected, 4 of them' in wording.selected_finding(t, paper)
    assert wording.selected_finding(t[:0], paper) == 'No configuration has been selected yet'
    assert 'fixed by the profile' in wording.selected_finding(t.assign(tried=0), paper)


def test_what_the_answers_show_is_in_the_headings_of_fidelity(results):
    of = sections.classes_section, sections.disagreement_section, sections.calibration_section
    begins = r'## Accuracy of each class\: ', r'## Predictions that are not the teacher’s\: control ', r'## Expected calibration error\: teachers '
    r = pages.Report([pages.Study('demo', results)], results)
    for section, begin in zip(of, begins):
        heading, *others = section(r)
        assert heading.markdown.startswith(begin) and all_of(Figure, others)
        without, *_ = section(report('', results))
        assert without.markdown.endswith('no logits in the paper’s own runs')


def test_the_papers_figures_stand_beside_ours(results):
    r = report('paper', results)
    bars, *_ = [f for f in all_of(Figure, sections.gains_section(r)) if 'Two panels of bars' in f.alt]
    assert [len(ax.patches) for ax in bars.drawn.axes] == [8, 8]
    panels = next(iter(all_of(Figure, sections.convergence_section(r)))).drawn.axes
    assert [ax.get_title() for ax in panels] == ['R34 → R18', 'R50 → R18', 'R50 → R34', 'R101 → R34']
    for ax in panels: assert 'teacher' in ' '.join(t.get_text() for t in ax.get_legend().get_texts())
    norms = [f for f in all_of(Figure, sections.clipping_section(r)) if 'gradient norm' in f.alt]
    assert not norms  # the paper's runs came without them: no empty axes


def test_effects_over_all_pairs_stand_where_the_gains_are(results):
    words = words_of(sections.gains_section(report('', results)))
    assert 'on average over the pairs: Feature-KD +0.16 pp [+0.04, +0.27]; Logit-KD +0.03' in words
    assert 'R34, 200 instead of 100 epochs, without a teacher, +0.26 pp [+0.07, +0.45]' in words


def test_every_way_to_ask_about_moderation_is_shown(results):
    r = report('', results)
    blocks = list(sections.specification_section(r))
    assert 'Of 216 ways' in blocks[0].markdown and '0 say yes and 0 no' in blocks[0].markdown
    assert len(all_of(Figure, blocks)[0].drawn.axes) == 2
    held = rows_of(sections.equal_gap_section(r), 'Effect on the gain')
    assert [row['pp [95 % interval]'] for row in held][1] == '+0.22 [−0.13, +0.56]'


def test_seeds_and_images_are_told_apart_where_answers_are_kept(results):
    rows = rows_of(sections.noise_section(report('paper demo', results)), '± new images')
    assert {(row['Seeds'], row['Images']) for row in rows} <= {('3', '60'), ('2', '60')} and len(rows) == 6
    assert 'came without' in words_of(sections.noise_section(report('', results/'nothing')))


def test_kinds_of_runs_have_words(results):
    rows = rows_of(sections.cost_section(report('demo', results)), 'Device-seconds')
    assert {row['For'] for row in rows} == {'teachers', 'main runs', 'stem ablation', 'clipping ablation'}
    labels = [t.get_text() for f in all_of(Figure, sections.cost_section(report('demo', results)))
              for t in f.drawn.axes.get_yticklabels()]
    assert 'main runs: student, Feature-KD' in labels and 'teachers' in labels


def test_costs_add_up(results):
    r = report('published demo', results)
    rows = rows_of(sections.cost_section(r), 'Device-seconds')
    assert sum(int(row['Runs']) for row in rows) == 36  # one failed
    assert sum(float(row['Device-seconds']) for row in rows) == 36*9
    left = rows_of(sections.left_section(r), 'Runs left')
    assert [row['Runs left'] for row in left] == ['1']


def test_reproduce_names_surroundings_data_and_departures(results):
    r = report('published demo', results)
    assert [row['Runs'] for row in rows_of(sections.environment_section(r), 'Git commit')] == ['37']
    assert rows_of(sections.data_section(r), 'SHA-256')[0]['SHA-256'] == 'ab'
    differs = {row['Choice']: row for row in rows_of(sections.deviations_section(r), 'Choice')}
    assert (differs['width']['paper-v2'], differs['width']['demo']) == ('64', '8')
    assert '36 of 37 runs are complete; 2 to 3 seeds a cell' in words_of(sections.limits_section(r)) or \
        '36 of 37 runs are complete; 3 seeds a cell' in words_of(sections.limits_section(r))


# --- the first page

def test_the_answer_says_no_more_than_the_interval(results):
    study = report('', results).studies[0]
    row = study.ledger.set_index('claim', drop=False).loc['v1.1']
    answer = front.answer_sentences(study)
    assert answer.startswith(front._openings[row.verdict])
    assert findings.signed_text(row.estimate) in answer and findings.signed_text(row.ci_low) in answer


@pytest.mark.parametrize('verdict', claims.VERDICTS)
def test_each_verdict_has_its_own_answer(verdict):
    row = pd.Series({'verdict': verdict, 'elsewhere': '', 'estimate': .1, 'ci_low': -.1, 'ci_high': .3})
    assert front.moderation_answer(row, 'ours').startswith(front._openings[verdict])
    nothing = row.copy()
    nothing['estimate'] = np.nan
    assert front.moderation_answer(nothing, 'ours').startswith('Nobody can tell yet')


def test_the_table_has_a_word_for_each_claim_and_study(results):
    from bs4 import BeautifulSoup
    r = report('paper demo', results)
    soup = BeautifulSoup(front.verdict_table(r.studies), 'html.parser')
    heads = [th.get_text() for th in soup.select('thead th')]
    assert heads == ['Claim', 'The paper says', 'The paper’s own runs', 'The demo (no evidence)']
    lines = soup.select('tbody tr')
    assert [line.th.get_text() for line in lines] == [c.id for c in claims.CLAIMS]
    for line, (_, row) in zip(lines, r.studies[0].ledger.iterrows(), strict=True):
        first, demo = line.select('.badge')
        assert first.get_text() == row.verdict and first['title'] == front.verdict_detail(row)
        assert demo.get_text().startswith(('(', '—'))  # handwritten digits decide nothing
        assert line.select_one('.in-print').get_text() == first['title']  # what print shows


# --- capacity

def doses(slope, seeds=6, spread=.05):
    "Runs of a capacity study whose gains grow by `slope` pp a doubling."
    rng, runs = np.random.default_rng(0), []
    for width in 4, 8, 16:
        base = config.run_spec('capacity', 'baseline', student='resnet18', width=width)
        alone = .70 + .002*rng.normal(size=seeds)
        runs += cell(base, alone)
        taught = config.run_spec('capacity', 'student', teacher='resnet34', student='resnet18',
                                 method='logit', width=width, teacher_width=16)
        size = runs[-1]['parameters']
        gain = slope*np.log2(size/100_000) + spread*rng.normal(size=seeds)
        runs += cell(taught, alone + gain/100)
    return frame(runs)


@pytest.mark.parametrize(('slope', 'verdict'), [(1., 'above'), (-1., 'below'), (0., 'within')])
def test_the_declared_contrast_is_the_one_that_the_records_give(slope, verdict):
    runs = doses(slope)
    gains = dose.dose_gains(runs)
    decision = dose.dose_decisions(gains).iloc[0]
    assert decision.verdict == verdict
    final = runs[runs.stage == 'final']
    by_hand = []
    for _, one in final.groupby('seed'):
        wide = one.pivot(index='parameters', columns='role', values='test_best')
        by_hand.append(np.polyfit(np.log2(wide.index.astype(float)), 100*(wide.student - wide.baseline), 1)[0])
    assert dose.dose_slopes(gains).tolist() == pytest.approx(by_hand)
    assert decision.estimate == pytest.approx(np.mean(by_hand[:decision.n]))
    assert dose.OUTCOMES[verdict] in dose.decision_findings(dose.dose_decisions(gains))[0]


def test_a_seed_without_every_size_has_no_slope():
    runs = doses(0.)
    short = runs[~((runs.seed == 2) & (runs.width == 8) & (runs.role == 'student'))]
    assert dose.dose_slopes(dose.dose_gains(short)).index.tolist() == [0, 1, 3, 4, 5]


def test_before_the_first_run_the_page_shows_what_was_declared(results):
    r = report('', results)
    assert 'make study PROFILE=capacity' in words_of(sections.dose_section(r))
    declared = rows_of(sections.declaration_section(r), 'Declared')
    assert any('0.25 pp a doubling' in row['As'] for row in declared)


def test_before_a_student_is_taught_the_page_says_what_each_size_reaches_alone(monkeypatch):
    alone = doses(0.).query('role == "baseline" and (width == 4 or width == 8 and seed < 2)')
    said = 'No student has been taught yet; without a teacher R18·w4 {:.1f} % (6 seeds), R18·w8 {:.1f} % (2 seeds)'
    assert dose.alone_finding(alone) == said.format(*100*alone.groupby('width').test_best.mean())
    monkeypatch.setattr(pages.Study, 'runs', alone)
    words = words_of(sections.dose_section(pages.Report([], None)))
    assert 'Without a teacher R18·w4' in words and 'make study PROFILE=capacity' in words


def test_the_figure_of_the_capacity_study_has_the_intervals_of_its_table(monkeypatch):
    "Over the seeds' own gains, which share what a seed does to both runs."
    runs = doses(1.)
    monkeypatch.setattr(pages.Study, 'runs', runs)
    blocks = list(sections.dose_section(pages.Report([], None)))
    gains = [100*(s.test_best.to_numpy() - a.test_best.to_numpy()) for (_, a), (_, s) in
             zip(*(runs[(runs.role == role) & (runs.stage == 'final')].groupby('width') for role in ('baseline', 'student')))]
    wanted = [tuple(stats.ttest_1samp(g, 0).confidence_interval(.95)) for g in gains]
    ax = next(b.drawn for b in blocks if isinstance(b, Figure))
    lines = [l.get_ydata() for l in ax.lines if len(set(l.get_xdata())) == 1 and len(l.get_xdata()) == 2 and l.get_alpha() == 1]
    assert sorted(map(tuple, lines)) == [pytest.approx(w, abs=1e-6) for w in sorted(wanted)]
    said = [row['95 % interval, pp'] for row in rows_of(blocks, 'Gain, pp')]
    assert sorted(said) == sorted(f'[{wording.signed_text(low)}, {wording.signed_text(high)}]' for low, high in wanted)


# --- part pages

@pytest.mark.parametrize('part', ['method', 'study', 'evidence', 'site', 'report'])
def test_a_part_page_leads_to_every_chapter(part):
    cells = json.loads((ROOT/'nbs'/part/'index.ipynb').read_text())['cells']
    text = ''.join(''.join(c['source']) for c in cells)
    assert re.search(r'^> .+', text, re.M)
    if part != 'report': assert f"show_chapters('{part}')" in text
    else: assert all(f']({p.name})' in text for p in PAGES if p.parent.name == part and p.stem != 'index')


def test_what_is_known_of_the_paper_is_what_a_page_would_work_out(monkeypatch):
    monkeypatch.setattr(pages, '_known', {})
    names = records.PAPER_RUNS, findings.PRINTED_TABLE
    fresh = {name: pages.Study(name).ledger for name in names}
    pages.know_the_paper()
    monkeypatch.setattr(claims, 'ledger', None) # nobody works it out again
    for name in names:
        study = pages.Study(name)
        pd.testing.assert_frame_equal(study.ledger, fresh[name])
        assert study.evidence is pages.Study(name).evidence
    with pytest.raises(TypeError): assert pages.Study('demo').ledger is None


def test_curves_are_smoothed_over_nine_of_a_hundred_epochs_and_short_ones_not_at_all(tmp_path):
    write(config.study_runs('demo'), tmp_path)
    paper, demo = (next(sections._convergence_panels(pages.Study(name, tmp_path))).caption for name in ('paper', 'demo'))
    assert 'of each pair, smoothed over 9 epochs; ' in paper and 'smoothed' not in demo
