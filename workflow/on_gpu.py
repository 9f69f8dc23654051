"""Runs a command on one of several GPUs: python workflow/on_gpu.py GPUS SHARE FOLDER COMMAND …

GPUS are names as CUDA_VISIBLE_DEVICES has them, separated by commas; SHARE is the number of runs at a time on each; FOLDER
takes a file for each slot. The command sees one GPU. Its slot is held by a lock on an open file, which the system
releases when the command ends, even if it is killed. See nbs/study/06_study.ipynb, "A GPU for each run".
"""
import fcntl
import os
import sys
import time


def free_slot(gpus, share, folder):
    "(name of a GPU, file descriptor that holds a slot of it); waits until one is free."
    os.makedirs(folder, exist_ok=True)
    while True:
        for place in range(share):  # every GPU's first slot before any second one
            for number, gpu in enumerate(gpus):
                slot = os.open(os.path.join(folder, f'{number}.{place}'), os.O_CREAT | os.O_RDWR)
                try: fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(slot)
                    continue
                return gpu, slot
        time.sleep(0.2)


if __name__ == '__main__':
    names, share, folder, *command = sys.argv[1:]
    gpu, slot = free_slot(names.split(','), int(share), folder)
    os.set_inheritable(slot, True)
    os.environ.update(CUDA_VISIBLE_DEVICES=gpu, KD_JOBS=share)  # memory is divided by the runs on this GPU
    os.execvp(command[0], command)
