"""One more loss, network and data set, each one cell in one notebook: trained, planned and shown with no other edit."""
import json
import os
import shutil
import subprocess
import sys

import nbformat
import pytest
from conftest import ROOT
from nbformat.v4 import new_code_cell
from sites import copy_repository

CELLS = {
    'method/03_losses.ipynb': '''#| export
@method('squared', 'Squared logits', '#aa00aa')
class SquaredLogits(Distillation):
    "Mean squared difference of the logits."
    class Options(Weighted):
        power: Positive = option(2.0, 'q', 'q', 'exponent of the difference')

    parts = ('gap',)

    def distance(self, batch):
        gap = (batch.student_logits - batch.teacher_logits.detach()).abs()
        return dict(kd=(gap**self.options.power).mean(), gap=gap.mean())
''',
    'method/02_models.ipynb': '''#| export
class Plain(nn.Module):
    "Two convolutions, no residual."
    def __init__(self, classes, width, in_channels):
        super().__init__()
        self.first, self.second = _conv(in_channels, width, 3, 2), _conv(width, 2*width, 3, 2)
        self.fc = nn.Linear(2*width, classes)
        self.channels = {'first': width, 'second': 2*width}

    def features(self, x):
        first = torch.relu(self.first(x))
        second = torch.relu(self.second(first))
        return self.fc(second.mean((2, 3))), {'first': first, 'second': second}

    def forward(self, x): return self.features(x)[0]

@network('plain', 'Plain net', 'plain')
def plain(num_classes, stem, width, in_channels): return Plain(num_classes, width, in_channels)
''',
    'method/01_data.ipynb': '''#| export
@source('squares', 'Squares of 40 pixels', train_images=90, shape=(3, 40, 40), num_classes=3)
def squares(root=None):
    "Noise with one brighter channel, which is the class."
    def part(n, seed):
        rng, labels = np.random.default_rng(seed), np.arange(n) % 3
        images = rng.integers(0, 100, (n, 3, 40, 40), dtype=np.uint8)
        images[np.arange(n), labels] += 100
        return images, labels
    return make_dataset('squares', part(90, 0), part(30, 1), ('red', 'green', 'blue'))
'''}

PROFILE = '''description = "One of each that the package does not have"
pairs = [["resnet18", "resnet18"], ["plain", "plain"]]
methods = ["logit", "squared"]
seeds = [0, 1]
teacher_epochs = 1

[run]
data = "squares"
width = 4
epochs = 1
batch_size = 40
padding = 2
protocol = "v2"
validation_size = 10
'''

TRAIN = '''
import json, sys
from kd_capacity.profiles import study_runs
from kd_capacity.study import plan
from kd_capacity.training import train
specs = study_runs('mine')
records = [train(spec, sys.argv[1]) for spec in specs]
table = plan('mine', sys.argv[1], speed=1e9)[0]
print(json.dumps({'runs': [r['run_id'] for r in records], 'planned': table.run.tolist(), 'PFLOP': table.PFLOP.tolist(),
                  'options': [r['spec'].get('power') for r in records]}))
'''

PAGES = '''
import os, sys, papermill
from kd_capacity.basics import root
from kd_capacity.study import warm_kernels
with warm_kernels(dict(os.environ)) as env:
    os.environ.update(KD_KERNELS=env['KD_KERNELS'], JUPYTER_PATH=env['JUPYTER_PATH'])
    for page in sys.argv[2:]:
        source = root()/'nbs'/page
        papermill.execute_notebook(str(source), sys.argv[1] + '/' + source.name, parameters={'profiles': 'mine', 'results': sys.argv[1]},
                                   cwd=str(source.parent), kernel_name='python3', progress_bar=False,
                                   request_save_on_cell_execute=False)
'''
SHOWN = 'report/analysis.ipynb', 'report/explorer.ipynb', 'report/cost.ipynb', 'report/training.ipynb'


def call(root, code, *args):
    env = {**os.environ, 'PYTHONPATH': str(root), 'KD_RESULTS': str(root/'made'), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run([sys.executable, '-c', code, *map(str, args)], cwd=root, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope='module')
def extended(tmp_path_factory):
    "A repository with the three cells and the profile, and what its study left."
    root = copy_repository(tmp_path_factory.mktemp('extended'))
    for name in 'published', 'benchmarks': shutil.copytree(ROOT/'results'/name, root/'results'/name)
    for name, source in CELLS.items():
        path = root/'nbs'/name
        nb = nbformat.read(path, 4)
        nb.cells.append(new_code_cell(source))
        nbformat.write(nb, path)
    (root/'workflow'/'profiles'/'mine.toml').write_text(PROFILE)
    call(root, 'from nbdev.doclinks import nbdev_export; nbdev_export.__wrapped__()')
    return root, json.loads(call(root, TRAIN, root/'made').splitlines()[-1])


def test_every_run_is_trained_and_planned(extended):
    root, made = extended
    assert len(made['runs']) == len(set(made['runs'])) == 2 + 4 + 8 and made['planned'] == made['runs']
    assert all(flop > 0 for flop in made['PFLOP'])
    assert made['options'].count(2.0) == 4 and any('squared/a0.5-q2' in run for run in made['runs'])
    history = (root/'made'/next(run for run in made['runs'] if 'squared' in run)/'history.csv').read_text()
    assert 'loss_gap' in history.splitlines()[0]


def test_the_report_shows_them(extended):
    root, _ = extended
    call(root, PAGES, root/'made', *SHOWN)
    shown = {name.rpartition('/')[2]: (root/'made'/name.rpartition('/')[2]).read_text() for name in SHOWN}
    for name in 'analysis.ipynb', 'explorer.ipynb':
        for text in 'Squared logits', 'Plain net': assert text in shown[name], f'{name} does not name {text}'
    assert '#aa00aa' in shown['explorer.ipynb'].lower()
