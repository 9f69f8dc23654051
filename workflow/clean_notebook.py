"""A notebook as it is committed: no outputs, no execution counts, of the metadata only papermill's tags.

As git's filter (workflow/gitconfig) it reads a notebook from standard input; with file names it cleans those files.
It needs nothing but Python's standard library, since git starts it for every notebook that it looks at.
"""
import json
import sys

KERNEL = {'display_name': 'python3', 'language': 'python', 'name': 'python3'}
MARKDOWN = 'cell_type', 'id', 'metadata', 'source', 'attachments'


def lines(source):
    "Jupyter's form of a text: a list of its lines."
    return (source if isinstance(source, str) else ''.join(source)).splitlines(keepends=True)


def clean_cell(cell):
    kept = {key: value for key, value in cell.items() if key in MARKDOWN}
    tags = cell.get('metadata', {}).get('tags')
    kept |= {'metadata': {'tags': tags} if tags else {}, 'source': lines(cell.get('source', ''))}
    return {**kept, 'outputs': [], 'execution_count': None} if cell['cell_type'] == 'code' else kept


def cleaned(text):
    "The clean form of a notebook's text; what is no notebook (yet), such as one in conflict, stays."
    try:
        nb = json.loads(text)
        if nb['nbformat'] != 4 or nb['nbformat_minor'] < 5: return text
        nb = {**nb, 'cells': [clean_cell(c) for c in nb['cells']], 'metadata': {'kernelspec': KERNEL}}
    except (ValueError, KeyError, TypeError, AttributeError): return text
    return json.dumps(nb, ensure_ascii=False, indent=1, sort_keys=True) + '\n'


def main(paths):
    for stream in sys.stdin, sys.stdout: stream.reconfigure(encoding='utf-8', newline='')
    if not paths: sys.stdout.write(cleaned(sys.stdin.read()))
    for path in paths:
        with open(path, encoding='utf-8', newline='') as file: before = file.read()
        if (after := cleaned(before)) == before: continue
        with open(path, 'w', encoding='utf-8', newline='') as file: file.write(after)


if __name__ == '__main__': main(sys.argv[1:])
