"""Profiles from outside: every mistake in a file is one sentence that names the file and the key."""
import pytest

from kd_capacity import profiles
from kd_capacity.basics import UserError
from kd_capacity.losses import METHODS
from kd_capacity.profiles import profile, study_runs

DESCRIPTION, PAIRS = 'description = "a test"', 'pairs = [["resnet34", "resnet18"]]'


def text(top='', run='', tables='', description=DESCRIPTION, pairs=PAIRS):
    "A profile in TOML, valid as it is; `run` replaces keys of the table [run]."
    lines = {'data': 'data = "digits"', 'padding': 'padding = 1'} | {key_of(line): line for line in run.splitlines()}
    return '\n'.join([description, pairs, top, '[run]', *lines.values(), tables])


def pairs(value): return text(pairs=f'pairs = {value}')


TOP = '''methods = [] | methods = "logit" | methods = ["logits"] | methods = ["none"] | methods = ["logit", "logit"] | methods = [3]
seeds = [] | seeds = 3 | seeds = [-1] | seeds = [0.5] | seeds = ["0"] | seeds = [0, 0] | seeds = [true] | seeds = [9223372036854775808]
teacher_seeds = [] | teacher_seeds = [-1] | teacher_seeds = [0, 0] | teacher_epochs = 0 | teacher_epochs = 1.5 | teacher_epochs = "200"
teacher_epochs = true | title = 5 | pears = 1 | options = 3 | selection = 5 | stem_ablation = 5 | clipping_ablation = "all"
name = "other" | extends = 5 | extends = ["demo"]'''

IN_RUN = '''epoch = 1 | epochs = 0 | epochs = "3" | epochs = 1.5 | epochs = true | width = 0 | width = 5000 | batch_size = 1 | lr = 0
lr = -0.1 | lr = "0.1" | lr = nan | lr = inf | lr_min = 1.0 | momentum = 1 | momentum = 0 | weight_decay = -1 | max_norm = 0
padding = -1 | padding = 8 | flip = "yes" | data = "cifar" | data = 5 | normalization = "paper" | protocol = "v3"
protocol = "v2" | validation_size = 5 | validation_size = -1 | engine = "quick" | stem = "cfar" | split_seed = -1 | seed = 1
method = "logit" | teacher_run = "x" | alpha = 0.5'''

IN_TABLES = '''options: alpha = 2 | options: alpha = "half" | options: temperature = 0 | options: beta = -1 | options: normalize = "yes"
options: alhpa = 0.5 | options: logit = 5 | options.logit: beta = 1.0 | options.logit: alpha = 2 | options.feature: temperature = 2
selection: seed = 0 | selection: grid = {alpha = [0.5]} | selection: seed = -1 | selection: grid = 5 | selection: grid = {}
selection.grid: alpha = [] | selection.grid: alpha = 0.5 | selection.grid: alpha = [2.0] | selection.grid: alhpa = [0.5]
selection.grid: temperature = [0] | selection: gird = {alpha = [0.5]}
[stem_ablation]: arch = "resnet18" | [stem_ablation]: seeds = [0] | [stem_ablation]: arch = "resnet19" | [stem_ablation]: seeds = []
[stem_ablation]: epochs = 0 | [stem_ablation]: stem = "cifar" | [clipping_ablation]: teacher = "resnet34"
[clipping_ablation]: student = "resnet19" | [clipping_ablation]: seeds = [0, 0] | [clipping_ablation]: width = 0'''

IN_PAIRS = {'5': 'pairs', '[]': 'pairs', '"resnet18"': 'pairs', '[5]': 'pairs[0]', '[["resnet34"]]': 'a pair is',
            '[["resnet34", "resnet18", "resnet18"]]': 'a pair is', '[["resnet19", "resnet18"]]': 'teacher',
            '[["resnet34", 18]]': 'pairs[0].student', '[[["resnet34"], "resnet18"]]': 'pairs[0].teacher',
            '[{teacher = "resnet34"}]': 'pairs[0].student', '[["resnet34", "resnet18"], ["resnet34", "resnet18"]]': 'pairs'}
IN_A_PAIR = {'widht = 4': 'widht', 'width = 0': 'width', 'width = 5000': 'width', 'width = "4"': 'width', 'width = 4.5': 'width',
             'teacher_width = -1': 'teacher_width'}


def split_cases(lines): return [case.strip() for line in lines.splitlines() for case in line.split('|')]


def key_of(line): return line.partition('=')[0].strip()


def table(case):
    "A case of a table as TOML, with the keys that it needs besides."
    head, _, line = case.partition(': ')
    needs = {'selection': {'seed': '0', 'grid': '{alpha = [0.5]}'}, 'stem_ablation': {'arch': '"resnet18"', 'seeds': '[0]'},
             'clipping_ablation': {'teacher': '"resnet34"', 'student': '"resnet18"', 'seeds': '[0]'}}
    name, key = head.strip('[]'), key_of(line)
    alone = case in ('selection: seed = 0', 'selection: grid = {alpha = [0.5]}', '[stem_ablation]: arch = "resnet18"',
                     '[stem_ablation]: seeds = [0]', '[clipping_ablation]: teacher = "resnet34"')
    more = {} if alone else {k: v for k, v in needs.get(name, {}).items() if k != key}
    before = '[selection]\nseed = 0\n' if name == 'selection.grid' else ''
    return before + '\n'.join([f'[{head}]', *(f'{k} = {v}' for k, v in more.items()), line])


MISSING = {'selection: seed = 0': 'selection.grid', 'selection: grid = {alpha = [0.5]}': 'selection.seed',
           '[stem_ablation]: arch = "resnet18"': 'stem_ablation[0].seeds', '[stem_ablation]: seeds = [0]': 'stem_ablation[0].arch',
           '[clipping_ablation]: teacher = "resnet34"': 'clipping_ablation[0].seeds'}
V2 = 'validation_size = 1000\nprotocol = "v2"'

MALFORMED = {f'pairs = {value}': (pairs(value), key) for value, key in IN_PAIRS.items()}
MALFORMED |= {f'pairs[0]: {line}': (pairs('[{teacher = "resnet34", student = "resnet18", %s}]' % line), key) for line, key in IN_A_PAIR.items()}
MALFORMED |= {line: (text(top=line), key_of(line)) for line in split_cases(TOP)}
MALFORMED |= {f'run: {line}': (text(run=line), key_of(line)) for line in split_cases(IN_RUN)}
MALFORMED |= {case: (text(tables=table(case)), MISSING.get(case, key_of(case.partition(': ')[2]))) for case in split_cases(IN_TABLES)}
MALFORMED |= {'more validation images than there are': (text(run=V2), 'validation_size'),
              'no pairs': (text(pairs=''), 'pairs'), 'no description': (text(description=''), 'description'),
              'description = 5': (text(description='description = 5'), 'description'), 'run = 5': (f'{DESCRIPTION}\n{PAIRS}\nrun = 5', 'run'),
              'empty file': ('', 'missing'), 'extends itself': (text(top='extends = "mine"'), 'extends'),
              'extends nothing': (text(top='extends = "nowhere"'), 'nowhere'),
              'no value': ('description = ', 'TOML'), 'open table': ('[run', 'TOML'), 'key twice': (f'{DESCRIPTION}\n{DESCRIPTION}\nseeds = [0]', 'line 2'),
              'nested too deep': ('pairs = ' + '['*3000 + ']'*3000, 'TOML'), 'not UTF-8': (b'description = "\xff"', 'utf-8')}


def test_there_are_many(): assert len(MALFORMED) >= 79


def test_the_profile_that_they_are_made_from_is_valid(monkeypatch, tmp_path):
    monkeypatch.setenv('KD_PROFILES', str(tmp_path))
    (tmp_path/'mine.toml').write_text(text())
    assert len(study_runs('mine')) == 1 + 3 + 3*2


@pytest.mark.parametrize('case', MALFORMED)
def test_a_malformed_profile_is_refused_in_one_sentence_with_file_and_key(case, monkeypatch, tmp_path):
    content, key = MALFORMED[case]
    monkeypatch.setenv('KD_PROFILES', str(tmp_path))
    (tmp_path/'mine.toml').write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as e: profile('mine')
    message = str(e.value)
    assert 'mine' in message and key in message and '\n' not in message and len(message) < 700, message


def test_each_control_is_of_its_own_pairs_or_of_all():
    p = profile('controls')
    cells = profiles.control_cells(p)
    for row in p.controls:
        mine = [c for c in cells if c.control == row.name]
        assert {c.student for c in mine} == {pair.student for pair in row.pairs or p.pairs}
        taught = {c.teacher for c in mine if METHODS[c.method].needs_teacher}
        assert taught <= {pair.teacher for pair in row.pairs or p.pairs} and all(c.teacher is None for c in mine if not METHODS[c.method].needs_teacher)


def test_a_control_without_a_teacher_is_of_no_teachers_width():
    p = profile('controls')
    row = next(r for r in p.controls if 'none' in (r.methods or ()))
    pair = (row.pairs or p.pairs)[0].model_copy(update={'teacher_width': 16})
    chosen = {profiles.DistilledCell(None, pair.student, 'none', pair.width): {'lr': 0.25}}
    assert profiles._control_cell(p, row, pair, 'none', chosen).runs[0].lr == 0.25
