"""The fast engine computes what the faithful one computes, up to rounding that is stated here."""
import copy
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from conftest import SMALL
from kd_capacity import data, engine, losses, models
from kd_capacity.basics import UserError
from kd_capacity.engine import (ENGINES, SGD, Engine, choose_threads, cosine, engine_for,
                                fold_batch_norms, laid_out, share_gpu, torch_switches)
from kd_capacity.profiles import run_spec
from kd_capacity.run_files import history
from kd_capacity.statistics import equivalence
from kd_capacity.training import train, train_step

STEPS = 20
FAITHFUL, FAST = (ENGINES[e]['cpu'] for e in ('faithful', 'fast'))


@pytest.fixture(scope='module')
def views():
    "Batches of an epoch of colour noise with labels that can be learned: 20 x 32 images of 16 x 16."
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(0, 10, STEPS*32))
    images = torch.from_numpy(rng.integers(0, 200, (STEPS*32, 3, 16, 16), dtype=np.uint8)) + 5*labels[:, None, None, None].byte()
    stats = torch.full((3,), .4), torch.full((3,), .25)
    return list(data.batches(images, labels, 32, 0, 1, *stats, padding=2))


class Path:
    "Networks, loss and update of one engine, from one state."
    def __init__(self, engine, method, perturbation=0.):
        torch.manual_seed(0)
        spec = run_spec('demo', 'student', teacher='resnet34', student='resnet18', method=method) if method != 'none' else run_spec(
            'demo', 'baseline', student='resnet18')
        self.engine, self.spec = engine, spec.replace(width=8)
        student, teacher = models.resnet('resnet18', width=8), models.resnet('resnet34', width=8)
        with torch.no_grad():
            teacher(torch.randn(64, 3, 16, 16))
            student.conv1.weight += perturbation*torch.randn(student.conv1.weight.shape)
        teacher = models.frozen(teacher)
        self.objective = losses.objective(method, spec.options, student.channels, teacher.channels)
        self.student, self.teacher = laid_out(engine, student.train()), laid_out(engine, fold_batch_norms(teacher) if engine.folded else teacher)
        self.optimizer = SGD([*self.student.parameters(), *self.objective.projections.parameters()], .9, 5e-4, engine.fused)
    @property
    def parts(self): return self.student, self.objective, self.optimizer
    def step(self, x, y):
        out = train_step(self.student, self.teacher, self.objective, self.optimizer, self.spec, .05, laid_out(self.engine, x), y, engine=self.engine)
        return {k: float(v) for k, v in out.items()}


def along(engine, method, views):
    "(engine's step, faithful's step) from each state of faithful's path: what they say, and the weights that they leave."
    faithful, other = Path(FAITHFUL, method), Path(engine, method)
    for x, y, _ in views:
        for to, part in zip(other.parts, faithful.parts): to.load_state_dict(copy.deepcopy(part.state_dict()))
        yield (other.step(x, y), other.student.state_dict()), (faithful.step(x, y), faithful.student.state_dict())


def check(engine, method, views, rtol):
    for (a, weights), (b, expected) in along(engine, method, views):
        for k in a: assert a[k] == pytest.approx(b[k], rel=rtol if k.startswith('loss') else 1000*rtol, abs=1e-6 if k != 'correct' else 1), k
        a, b = (torch.cat([v.float().flatten() for v in w.values()]) for w in (weights, expected))
        assert (a - b).norm() <= 10*rtol*b.norm()


@pytest.mark.parametrize('method', ['none', 'logit', 'feature'])
def test_fast_on_the_cpu_follows_faithful_for_20_steps(method, views):
    "From each of 20 states: loss within 1e-5, gradient norms within 1 % (a ReLU at its kink takes the other side), the state left behind within 1e-4 of its norm."
    check(FAST, method, views, 1e-5)


@pytest.mark.parametrize('switch', ['channels_last', 'folded', 'fused'])
def test_each_switch_alone_follows_too(switch, views):
    check(Engine(**{switch: True}), 'feature', views, 1e-5)


def test_a_compiled_student_follows(views):
    "The wiring of torch.compile, with a backend that needs no compiler."
    check(Engine(compiled='eager'), 'feature', views[:5], 1e-5)


def test_bfloat16_stays_within_its_rounding(views):
    "8 bits of mantissa: 2 % of the loss; weights and update stay float32."
    steps = list(along(Engine(bfloat16=True, channels_last=True), 'feature', views))
    for (a, weights), (b, _) in steps:
        assert a['loss_total'] == pytest.approx(b['loss_total'], rel=.02) and a['norm_total'] == pytest.approx(b['norm_total'], rel=.1)
        assert all(w.dtype != torch.bfloat16 for w in weights.values())
    assert any(a != b for (a, _), (b, _) in steps)


def test_left_to_itself_fast_strays_no_further_than_rounding_does(views):
    "Free paths part, since training amplifies rounding: faithful does from itself too, when one layer's start is moved by 1e-6."
    free = lambda *a: np.array([Path.step(p, x, y)['loss_total'] for p in [Path(*a)] for x, y, _ in views])
    reference = free(FAITHFUL, 'feature')
    moved, fast = (np.abs(f/reference - 1).max() for f in (free(FAITHFUL, 'feature', 1e-6), free(FAST, 'feature')))
    assert fast < 10*moved < .5


def test_fast_on_a_gpu_has_what_a_gpu_pays_for():
    e = engine_for('fast', torch.device('cuda'))
    assert e.bfloat16 and e.compiled == 'inductor' and e.fused and e.channels_last and e.cache and not e.deterministic
    assert engine_for('faithful', torch.device('cpu')) == Engine(keep_memory=True)  # which changes no bit
    assert engine_for('faithful', torch.device('cuda')) == Engine(tf32='convolutions')
    with pytest.raises(UserError, match="engine = 'quick'"): engine_for('quick', torch.device('cpu'))


def test_runs_on_one_gpu_share_its_memory(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda.memory, '_lazy_init', lambda: None)  # all of torch's own function, but the driver
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: 0)
    monkeypatch.setattr(torch._C, '_cuda_setMemoryFraction', lambda fraction, device: asked.append((fraction, device)), raising=False)
    for jobs, device in ('4', 'cuda'), ('1', 'cuda'), ('4', 'cpu'):
        monkeypatch.setenv('KD_JOBS', jobs)
        share_gpu(torch.device(device))
    assert asked == [(.95/4, 0)]


def test_a_warning_in_training_is_heard():
    with pytest.warns(UserWarning, match='damaged'), torch_switches(True) as caught:
        warnings.warn('the cache is damaged')
        warnings.warn('x is not deterministic')
    assert len(caught) == 2


def test_what_is_not_deterministic_is_for_the_record_alone_whatever_filters_there_are():
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter('ignore')
        with torch_switches(True) as caught:
            for _ in range(2): warnings.warn('x is not deterministic')
            warnings.warn('the cache is damaged')
    assert [str(w.message) for w in caught] == ['x is not deterministic']*2 and not heard
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter('always')
        with torch_switches(True): warnings.warn('x is not deterministic')
    assert not heard


@pytest.mark.parametrize('deterministic, mode', [(True, 1), (False, 0)])
def test_torch_warns_of_what_is_not_deterministic_where_that_is_asked_for(deterministic, mode):
    "torch's 0 is silence, 1 a warning, 2 an error."
    before = torch.get_deterministic_debug_mode()
    with torch_switches(deterministic):
        assert torch.get_deterministic_debug_mode() == mode and torch.backends.cudnn.benchmark is not deterministic
    assert torch.get_deterministic_debug_mode() == before


def test_the_engine_is_part_of_the_spec_and_of_the_record(tmp_path):
    spec = run_spec('demo', 'baseline', student='resnet18').replace(**SMALL)
    fast = spec.replace(engine='fast')
    assert fast.run_id != spec.run_id
    with pytest.raises(UserError, match='engine'): spec.replace(engine='quick')
    env = [train(s, tmp_path)['environment'] for s in (spec, fast)]
    assert env[0]['deterministic'] and env[0]['engine'] == vars(engine_for('faithful', torch.device('cpu')))
    assert not env[1]['deterministic'] and env[1]['engine']['channels_last']


def test_a_fast_run_that_is_killed_goes_on(tmp_path):
    class Killed(Exception): pass
    def kill(spec, history):
        if len(history) == 1: raise Killed
    spec = run_spec('demo', 'baseline', student='resnet18').replace(**SMALL, engine='fast')
    with pytest.raises(Killed): train(spec, tmp_path, progress=kill)
    epochs = []
    train(spec, tmp_path, progress=lambda s, h: epochs.append(len(h)))
    assert epochs == [2] and history(spec.run_id, tmp_path).epoch.tolist() == [1, 2]


def test_folding_leaves_the_teacher_itself_alone():
    teacher = models.frozen(models.resnet('resnet18', width=4))
    before = copy.deepcopy(teacher.state_dict())
    fold_batch_norms(teacher)
    assert teacher.state_dict().keys() == before.keys() and all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


@pytest.mark.parametrize('name', ['resnet18', 'resnet50'])
def test_folding_answers_the_same_without_a_batch_norm(name):
    torch.manual_seed(0)
    teacher = models.frozen(models.resnet(name, width=4))
    for norm in (m for m in teacher.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_(std=.1), norm.running_var.uniform_(.5, 1.5), norm.bias.data.normal_(std=.1)
    x = torch.randn(3, 3, 8, 8)
    folded = fold_batch_norms(teacher)
    torch.testing.assert_close(folded(x), teacher(x), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())


def test_a_network_that_names_no_pairs_is_copied_as_it_is():
    class Plain(torch.nn.Module):
        channels = {}
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = torch.nn.Conv2d(3, 2, 1), torch.nn.BatchNorm2d(2)
        def features(self, x): return self.bn1(self.conv1(x)).mean((2, 3)), {}
        def forward(self, x): return self.features(x)[0]
    plain = models.frozen(Plain())
    copied = fold_batch_norms(plain)
    assert copied is not plain and copied.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize('flags, has', [('avx2 avx512f', False), ('avx2 avx512_bf16', True), ('amx_bf16 sse', True), (None, False)])
def test_bfloat16_is_for_cpus_that_multiply_it(monkeypatch, flags, has):
    class Info:
        def __init__(self, path): assert path == '/proc/cpuinfo'
        def exists(self): return flags is not None
        def read_text(self): return f'processor : 0\nflags : {flags}\n'
    monkeypatch.setattr(engine, 'Path', Info)
    engine.cpu_has_bfloat16.cache_clear()
    try:
        assert engine_for('fast', torch.device('cpu')).bfloat16 is has
        assert not engine_for('faithful', torch.device('cpu')).bfloat16
    finally: engine.cpu_has_bfloat16.cache_clear()


def test_the_learning_rate_falls_from_lr_to_lr_min():
    rates = [cosine(e, 10, .1, 1e-4) for e in range(11)]
    assert rates[0] == .1 and np.isclose(rates[10], 1e-4) and all(a > b for a, b in zip(rates, rates[1:]))


def test_fast_and_faithful_end_at_equivalent_accuracies(tmp_path):
    "Ten seeds of a thin ResNet-18 on the digits; two one-sided Welch tests at a margin of 2 pp of final accuracy."
    base = run_spec('demo', 'baseline', student='resnet18').replace(width=8, epochs=8)
    accuracy = {e: [train(base.replace(seed=s, engine=e), tmp_path)['outcome']['test_final'] for s in range(10)] for e in ENGINES}
    assert min(map(min, accuracy.values())) > .7  # networks that have learned
    assert equivalence(accuracy['fast'], accuracy['faithful'], margin=2.).p < .05


# ---- switches and threads

@pytest.mark.parametrize('keep, asked', [(True, [(-4, 0), (-1, 2**31 - 1)]), (False, [(-4, 65536), (-1, 2**17), 'trim'])])
def test_malloc_is_told_to_keep_what_is_freed_and_to_give_it_back(monkeypatch, keep, asked):
    "By the numbers that glibc's malloc.h gives M_MMAP_MAX and M_TRIM_THRESHOLD."
    heard = []
    class Libc:
        def mallopt(self, *option): heard.append(option)
        def malloc_trim(self, pad): heard.append('trim')
    monkeypatch.setattr(engine.ctypes, 'CDLL', lambda name: Libc())
    engine.keep_memory(keep)
    assert heard == asked
    def none(name): raise OSError(name)
    monkeypatch.setattr(engine.ctypes, 'CDLL', none)
    engine.keep_memory(keep)  # another system: nothing to do
    assert heard == asked


def test_an_update_is_not_fused_unless_told(): assert not SGD([torch.ones(1)], .9, 0.).fused

def switches(): return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize('tf32, on', [('none', (False, False)), ('convolutions', (True, False)), ('all', (True, True))])
def test_tf32_where_it_is_allowed_and_nowhere_afterwards(tf32, on):
    before = switches()
    with torch_switches(True, tf32): assert switches() == on
    assert switches() == before
    with pytest.raises(UserError, match="tf32 = 'some'"), torch_switches(True, 'some'): pass


@pytest.fixture
def threads():
    "Puts the number of threads back."
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize('variable, flops, expected', [
    ('3', 1e6, 3), ('3', 1e15, 3), ('', 1e6, 1), (None, 1e6, 1), ('many', 1e6, 1), ('0', 1e6, 1), (None, 1e15, 6)])
def test_small_steps_take_one_thread_large_ones_a_core_each_unless_told(threads, monkeypatch, variable, flops, expected):
    monkeypatch.setattr('os.sched_getaffinity', lambda _: set(range(6)))
    monkeypatch.delenv('OMP_NUM_THREADS')
    if variable is not None: monkeypatch.setenv('OMP_NUM_THREADS', variable)
    assert choose_threads(flops) == expected == torch.get_num_threads()


def test_a_run_takes_the_threads_that_suit_it_and_its_record_says_how_many(threads, monkeypatch, tmp_path):
    monkeypatch.delenv('OMP_NUM_THREADS')
    torch.set_num_threads(2)
    spec = run_spec('demo', 'baseline', student='resnet18').replace(width=4, epochs=1, batch_size=425)
    assert train(spec, tmp_path)['environment']['threads'] == 1
    monkeypatch.setenv('OMP_NUM_THREADS', '2')
    assert train(spec, tmp_path, force=True)['environment']['threads'] == 2


@pytest.mark.parametrize('isa', ['AVX2', 'DEFAULT'])
def test_a_thin_network_in_channels_last_has_its_gradients(isa):
    "In a process of its own: where oneDNN writes beyond its memory, that process dies."
    script = """
import copy, torch
from kd_capacity import models
from kd_capacity.engine import Engine, laid_out
torch.set_num_threads(1)
torch.manual_seed(0)
network, x = models.resnet('resnet18', width=4).eval(), torch.randn(8, 3, 32, 32)
fast = laid_out(Engine(channels_last=True), copy.deepcopy(network))
for _ in range(20):
    ours, theirs = (torch.autograd.grad(n(i).square().sum(), list(n.parameters()))
                    for n, i in ((fast, x.to(memory_format=torch.channels_last)), (network, x)))
    for a, b in zip(ours, theirs): torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
"""
    environment = os.environ | {'ONEDNN_MAX_CPU_ISA': isa}
    done = subprocess.run([sys.executable, '-c', script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]
