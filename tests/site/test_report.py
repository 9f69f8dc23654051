"""The report on the website: whose runs it shows, and what a record may say there."""
import subprocess

from conftest import ROOT
from sites import HOSTILE, pages_of, soup

from kd_capacity import config


def table(page, *heads):
    "Rows, as dicts, of the table with these headings."
    for t in page.select('table'):
        names = [th.get_text() for th in t.select('thead th')]
        if set(heads) <= set(names): return [dict(zip(names, [td.get_text() for td in tr.select('td')])) for tr in t.select('tbody tr')]
    raise AssertionError(f'no table with {heads}')


def runs_of(site): return {r['Run']: r for r in table(soup(site/'pages'/'report'/'runs.html'), 'Run', 'Status')}


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


def test_every_run_with_a_record_leads_to_its_page(full):
    links = {a.get_text(): a['href'] for a in soup(full/'pages'/'report'/'runs.html').select('table.runs a')}
    assert set(links) == {s.run_id for s in (*config.study_runs('demo'), config.study_runs('paper-v1')[0])}
    for run_id, href in links.items(): assert soup(full/'pages'/'report'/href).h1.get_text() == run_id
    for path in (full/'runs').rglob('index.html'):
        for a in soup(path).select('a[href]'):
            if not a['href'].startswith('#'): assert (path.parent/a['href'].split('#')[0]).resolve().exists(), (path, a['href'])
