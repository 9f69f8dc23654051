"""Networks, pairs, methods and numbers in words; the tables that show a run and a schema."""
import numpy as np
import pandas as pd
import pytest
from pydantic import Field

from kd_capacity import basics, naming, profiles, run_files
from kd_capacity.basics import UserError
from kd_capacity.losses import METHODS

MISSING = None, float('nan'), pd.NA


@pytest.mark.parametrize('missing', MISSING)
def test_a_width_is_said_where_it_is_known_and_not_the_standard(missing):
    assert naming.network_name('resnet18') == naming.network_name('resnet18', missing) == 'R18'
    assert naming.network_name('resnet50', 4) == naming.network_name('resnet50', 4.) == 'R50·w4'
    assert naming.network_name('mine', 8) == 'mine·w8'


@pytest.mark.parametrize('missing', MISSING)
def test_a_pair_says_its_widths_where_they_differ(missing):
    pair = dict(teacher='resnet50', student='resnet18')
    assert naming.pair_name(pair) == naming.pair_name({**pair, 'width': 8, 'teacher_width': 8}) == 'R50 → R18'
    assert naming.pair_name({**pair, 'width': 8, 'teacher_width': missing}) == 'R50 → R18'
    assert naming.pair_name({**pair, 'width': missing, 'teacher_width': 8}) == 'R50 → R18'
    assert naming.pair_name({**pair, 'width': 4, 'teacher_width': 16}) == 'R50·w16 → R18·w4'


def test_what_this_version_lacks_goes_by_its_own_name():
    assert (naming.method_name('logit'), naming.method_name('mine')) == ('Logit-KD', 'mine')
    assert (naming.method_colour('logit'), naming.method_colour('mine')) == (METHODS['logit'].colour, METHODS['none'].colour)
    assert (naming.source_name('cifar10'), naming.source_name('mine')) == ('CIFAR-10', 'mine')


def test_a_difference_has_its_sign():
    assert [naming.signed_text(x) for x in (-.3, .3, *MISSING)] == ['−0.30', '+0.30', '', '', '']
    assert naming.signed_text(-1.26, 1) == '−1.3'


def test_a_record_is_shown_as_a_table():
    record = dict(run_id='a/b', data={'name': 'digits', 'sha256': '0123456789'}, parameters=12345, seconds=2.04, images_per_second=999.6,
                  spec={'epochs': 12}, fidelity=None,
                  outcome=dict(best_epoch=3, validation_best=None, test_best=.91234, test_final=.9),
                  environment=dict(git_clean=True, git_commit='abc', deterministic=True, device='cpu', device_name='x86', threads=2, packages={'torch': '2.11'}))
    shown = run_files.as_table(record)['']
    assert shown.to_dict() == {
        'run_id': 'a/b', 'data': 'digits 01234567', 'parameters': '12,345', 'best epoch': '3 of 12', 'test best': '91.23%', 'test final': '90.00%',
        'training': '2.0 s, 1000 images/s', 'deterministic': True, 'device': 'x86 (cpu), 2 threads', 'torch': '2.11', 'git commit': 'abc'}
    record['environment']['git_clean'] = False
    record['outcome']['validation_best'], record['fidelity'] = .5, {'agreement': .87654}
    shown = run_files.as_table(record)['']
    assert (shown['git commit'], shown['validation best'], shown['agreement']) == ('abc and uncommitted changes', '50.00%', '0.8765')
    record['environment']['git_commit'] = None
    assert run_files.as_table(record)['']['git commit'] == 'no git checkout'


def test_a_schema_is_shown_as_a_table():
    class Mine(basics.Checked):
        n: int = Field(ge=1)
        share: basics.Fraction = .5
    first, second = basics.schema_table(Mine)
    assert (first['key'], first['default'], second['key'], second['default']) == ('n', 'required', 'share', .5)
    assert first['allowed'] == 'a whole number >= 1' and second['allowed'].startswith('a number')


def test_a_profile_is_set_beside_the_papers():
    paper, differs = profiles.deviations('demo')
    by_name = {d.choice: d for d in differs}
    assert paper == 'paper-v2' and (by_name['data'].paper, by_name['data'].ours) == ('cifar10', 'digits')
    assert (by_name['epochs'].paper, by_name['epochs'].ours) == (100, 12) and 'alpha' not in by_name
    assert not {'name', 'title', 'description', 'run', 'options'} & set(by_name)
    assert profiles.deviations('paper-v2') == ('paper-v2', [])
    assert np.unique([d.choice for d in differs]).size == len(differs)


def test_stored_logits_and_labels_are_small(tmp_path):
    logits = np.eye(3, dtype=np.float16)
    run_files.write_logits('demo/a', logits, 2*logits, np.array([0, 1, 2]), tmp_path)
    with np.load(run_files.run_folder('demo/a', tmp_path)/'logits.npz') as kept:
        assert {name: kept[name].dtype.name for name in kept} == {'best': 'float16', 'last': 'float16', 'labels': 'int16'}


def test_a_header_that_is_no_historys_is_refused_with_its_column(tmp_path):
    path = run_files.run_folder('demo/a', tmp_path)/'history.csv'
    path.parent.mkdir(parents=True)
    columns = [name for name in run_files.HISTORY if not name.startswith('loss_')]
    for header, says in ((columns, None), (columns[:-1], f'column {columns[-1]} is missing'), ([*columns, 'loss_mine'], None),
                         ([*columns, 'mine'], "column 'mine' is not known"), ([*columns, columns[0]], 'a column is there twice')):
        path.write_text(','.join(header) + '\n')
        assert run_files.header_fault(path) == says
    with pytest.raises(UserError, match='history.csv is not a history of ours: a column is there twice'): run_files.history('demo/a', tmp_path)


def test_a_run_tells_its_commit_where_there_is_one(monkeypatch, tmp_path):
    says = {'rev-parse': 'abc', 'status': ''}
    monkeypatch.setattr(run_files, '_git', lambda command, *more: says[command])
    assert (run_files.environment()['git_commit'], run_files.environment()['git_clean']) == ('abc', True)
    says['status'] = ' M README.md'
    assert run_files.environment()['git_clean'] is False
    monkeypatch.undo()
    monkeypatch.setenv('PATH', str(tmp_path))  # where there is no git
    told = run_files.environment()
    assert told['git_commit'] is None and told['git_clean'] is None and told['packages']['torch']
