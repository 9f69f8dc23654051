"""Made-up runs for the tests: a frame of rows, or records in a folder (`kd_capacity.example`), and specs of the demo."""
from kd_capacity import config
from kd_capacity.example import example_cell as cell
from kd_capacity.example import example_frame as frame
from kd_capacity.example import example_row as row
from kd_capacity.example import write_example as write

__all__ = ['baseline', 'cell', 'frame', 'row', 'student', 'write']


def student(teacher='resnet50', student='resnet18', method='logit', profile='demo', **more):
    return config.run_spec(profile, 'student', teacher=teacher, student=student, method=method, **more)


def baseline(student='resnet18', profile='demo', **more):
    return config.run_spec(profile, 'baseline', student=student, **more)
