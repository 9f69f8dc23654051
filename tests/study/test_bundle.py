"""A study that goes on elsewhere: what a bundle holds, that it goes on there to the same bits, and what is refused at the door."""
import hashlib
import json
import stat
import subprocess
import sys
import zipfile

import pytest

from made_up import tiny_profile

from kd_capacity import bundle
from kd_capacity.basics import UserError
from kd_capacity.profiles import study_runs
from kd_capacity.run_files import run_folder
from kd_capacity.training import train


class Taken(Exception): pass


def taken(spec, history): raise Taken  # the machine is gone after an epoch


@pytest.fixture
def study(tmp_path, monkeypatch):
    "(results, specs): a teacher that is trained, a student that is begun."
    (tmp_path/'profiles').mkdir()
    (tmp_path/'profiles'/'tiny.toml').write_text(tiny_profile(2))
    monkeypatch.setenv('KD_PROFILES', str(tmp_path/'profiles'))
    specs = {spec.role: spec for spec in study_runs('tiny')}
    train(specs['teacher'], tmp_path/'here')
    with pytest.raises(Taken): train(specs['student'], tmp_path/'here', progress=taken)
    return tmp_path/'here', specs


def test_a_study_goes_on_elsewhere_to_the_same_bits(study, tmp_path):
    here, specs = study
    command = [sys.executable, '-m', 'kd_capacity.bundle']
    packed = subprocess.run([*command, 'pack', 'tiny', '--into', tmp_path/'s.zip', '--results', here], capture_output=True, text=True)
    assert packed.returncode == 0 and '1 finished runs, 1 begun' in packed.stdout, packed.stderr
    there = tmp_path/'there'
    assert len(bundle.unpack(tmp_path/'s.zip', there).new) == 4 + 2
    epochs = []
    record = train(specs['student'], there, progress=lambda spec, history: epochs.append(len(history)))
    assert epochs == [2] and record['weights'] == train(specs['student'], here)['weights']
    # back again: what is finished there replaces the checkpoint here, and nothing that is the same is touched
    (run_folder(specs['student'].run_id, here)/'record.json').unlink()
    bundle.pack('tiny', tmp_path/'back.zip', there)
    for name in 'history.csv', 'logits.npz': (run_folder(specs['student'].run_id, here)/name).unlink()
    back = bundle.unpack(tmp_path/'back.zip', here)
    assert sorted(name.rpartition('/')[2] for name in back.new) == ['history.csv', 'logits.npz', 'record.json'] and len(back.kept) == 4


def test_what_is_there_and_differs_is_never_replaced(study, tmp_path):
    here, specs = study
    bundle.pack('tiny', tmp_path/'s.zip', here)
    record = run_folder(specs['teacher'].run_id, here)/'record.json'
    record.write_text(record.read_text().replace('"seconds"', '"seconds_"'))
    before = record.read_text()
    with pytest.raises(UserError, match='is there already and differs'): bundle.unpack(tmp_path/'s.zip', here)
    assert record.read_text() == before and not list(here.glob('.unpack*'))


def made(path, members, *, manifest=None, compressed=False, link=None):
    "A bundle of {name: bytes} with a manifest that fits, unless another is given."
    files = {name: {'bytes': len(data), 'sha256': hashlib.sha256(data).hexdigest()} for name, data in members.items()}
    text = json.dumps(manifest or {'bundle': 1, 'profile': 'tiny', 'files': files})
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as z:
        z.writestr(zipfile.ZipInfo('bundle.json'), text)
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
            if name == link: info.external_attr = (stat.S_IFLNK | 0o777) << 16
            z.writestr(info, data)
    return path


WEIGHTS = 'tiny/teacher/r34/s0-0/weights.pt'


@pytest.mark.parametrize('members, more, says', [
    ({'/tmp/x/record.json': b'{}'}, {}, 'points outside'),
    ({'tiny/../../record.json': b'{}'}, {}, 'points outside'),
    ({'C:/x/record.json': b'{}'}, {}, 'points outside'),
    ({WEIGHTS: b'/etc/passwd'}, {'link': WEIGHTS}, 'is a link'),
    ({WEIGHTS: bytes(10_000_000)}, {'compressed': True}, 'is compressed'),
    ({'tiny/x/run.ipynb': b'{}'}, {}, 'is no file of a run'),
    ({'tiny/.x/record.json': b'{}'}, {}, 'is no file of a run'),
    ({'other/selection.json': b'{}'}, {}, 'is no file of a run'),
    ({WEIGHTS: b'cposix\nsystem\n(S"touch /tmp/ran"\ntR.'}, {}, 'cannot be read as a checkpoint'),
    ({'tiny/x/record.json': b'{"schema_version": 1, "run_id": "tiny/y"}'}, {}, "is of 'tiny/y'"),
    ({'tiny/x/record.json': b'{"schema_version": 1, "run_id": "tiny/x", "seconds": NaN}'}, {}, 'NaN is no number'),
    ({WEIGHTS: b'x'}, {'manifest': {'bundle': 1, 'profile': 'tiny', 'files': {}}}, 'its members are not those'),
    ({WEIGHTS: b'x'}, {'manifest': {'bundle': 1, 'profile': 'tiny', 'files': {WEIGHTS: {'bytes': 1, 'sha256': '0'*64}}}}, 'not the file whose hash'),
])
def test_a_hostile_bundle_is_refused_whole(members, more, says, tmp_path):
    path = made(tmp_path/'bad.zip', members, **more)
    with pytest.raises(UserError, match=says) as error: bundle.unpack(path, tmp_path/'results')
    assert '\n' not in str(error.value) and not (tmp_path/'results').exists() or not list((tmp_path/'results').iterdir())


@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_double_names_lying_sizes_and_cut_files_are_refused(tmp_path):
    double = made(tmp_path/'double.zip', {WEIGHTS: b'x'})
    with zipfile.ZipFile(double, 'a') as z: z.writestr(WEIGHTS, b'y')
    with pytest.raises(UserError, match='have the same name'): bundle.unpack(double, tmp_path/'r')
    data = made(tmp_path/'cut.zip', {WEIGHTS: b'x'*1000}).read_bytes()
    (tmp_path/'cut.zip').write_bytes(data[:600])
    with pytest.raises(UserError, match='cut.zip cannot be unpacked: it is not a zip file that can be read whole'): bundle.unpack(tmp_path/'cut.zip', tmp_path/'r')
    (tmp_path/'flip.zip').write_bytes(data.replace(b'x'*1000, b'x'*999 + b'y'))
    with pytest.raises(UserError, match='cannot be unpacked'): bundle.unpack(tmp_path/'flip.zip', tmp_path/'r')


def test_a_link_in_the_authors_archive_is_refused_by_the_same_door(tmp_path):
    from kd_capacity.authors import read_archive
    name = 'runs/final/resnet50_to_resnet18_logit/seed0/results.json'
    with pytest.raises(UserError, match='is a link'): read_archive(made(tmp_path/'a.zip', {name: b'{}'}, link=name))


def test_nothing_to_pack_is_said(tmp_path):
    with pytest.raises(UserError, match='nothing to pack'): bundle.pack('demo', tmp_path/'x.zip', tmp_path/'none')


def test_the_commands_say_what_they_did(study, tmp_path, monkeypatch, capsys):
    here, specs = study
    assert bundle.main('pack', 'tiny', str(tmp_path/'s.zip'), str(here)) is None
    size = (tmp_path/'s.zip').stat().st_size/1e6
    assert capsys.readouterr().out == (f'{tmp_path}/s.zip: 1 finished runs, 1 begun, {size:.1f} MB. There: make unpack FILE=s.zip, '
                                       'then make study PROFILE=tiny\n')
    bundle.main('unpack', str(tmp_path/'s.zip'), results=str(tmp_path/'there'))
    assert capsys.readouterr().out == '6 files of tiny unpacked. Go on with: make study PROFILE=tiny\n'
    bundle.main('unpack', str(tmp_path/'s.zip'), results=str(tmp_path/'there'))
    assert capsys.readouterr().out == '0 files of tiny unpacked, 6 were there already. Go on with: make study PROFILE=tiny\n'
    monkeypatch.chdir(tmp_path)
    bundle.main('pack', 'tiny', results=str(here))
    assert (tmp_path/'tiny.zip').exists()
    with pytest.raises(SystemExit, match="Did you mean 'unpack'"): bundle.main('unpak', 'x')
    with pytest.raises(SystemExit, match='none.zip cannot be unpacked: there is no such file'): bundle.main('unpack', str(tmp_path/'none.zip'))


def test_a_checkpoint_of_a_run_that_is_finished_here_stays_in_the_bundle(study, tmp_path):
    here, specs = study
    bundle.pack('tiny', tmp_path/'begun.zip', here)
    train(specs['student'], here)
    folder = run_folder(specs['student'].run_id, here)
    (folder/'history.csv').unlink()  # the bundle's is of one epoch
    done = bundle.unpack(tmp_path/'begun.zip', here)
    assert done.profile == 'tiny' and not (folder/'checkpoint.pt').exists()
    assert f'{specs["student"].run_id}/checkpoint.pt' in done.kept


def test_of_a_finished_study_the_teachers_weights_go_along_and_the_students_stay(study):
    here, specs = study
    train(specs['student'], here)
    def taken(role): return [f.rpartition('/')[2] for f in bundle.bundled_files('tiny', here) if f.startswith(specs[role].run_id)]
    assert taken('teacher') == ['record.json', 'history.csv', 'logits.npz', 'weights.pt'] and taken('student') == ['record.json', 'history.csv', 'logits.npz']
