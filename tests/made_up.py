"""Made-up runs for the tests: a frame of rows, or records in a folder (`kd_capacity.example`), and specs of the demo."""
from kd_capacity import config
from kd_capacity.example import example_cell as cell
from kd_capacity.example import example_frame as frame
from kd_capacity.example import example_row as row
from kd_capacity.example import write_example as write

__all__ = ['baseline', 'cell', 'frame', 'row', 'student', 'tiny_profile', 'write']


def student(teacher='resnet50', student='resnet18', method='logit', profile='demo', **more):
    return config.run_spec(profile, 'student', teacher=teacher, student=student, method=method, **more)


def baseline(student='resnet18', profile='demo', **more):
    return config.run_spec(profile, 'baseline', student=student, **more)


def tiny_profile(epochs=1, data='digits', selection=False):
    "The text of a profile: one pair, one method, one seed, networks of width 2."
    select = 'selection = { seed = 0, grid = { alpha = [0.3, 0.7] } }' if selection else ''
    return f'''description = "for tests"
pairs = [["resnet34", "resnet18"]]
methods = ["feature"]
seeds = [0]
teacher_epochs = {epochs}
{select}
[run]
data = "{data}"
width = 2
epochs = {epochs}
protocol = "v2"
validation_size = 150
padding = 1
flip = false
'''
