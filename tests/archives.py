"""A small archive in the format that the authors publish."""
import json
import zipfile

import numpy as np


def results(seed=0, kd='none', model='resnet18', teacher=None, epochs=3, bug=None, norms=True, accuracy=.95, **more):
    rng = np.random.default_rng([seed, len(model), epochs, {'none': 0, 'logit': 1, 'feature': 2}[kd], bool(bug)])
    def epoch(i):
        r = {'epoch': i, 'val_acc': float(rng.uniform(.5, .9)), 'loss_ce': 1/i, 'loss_kd': 0.0 if kd == 'none' else .5, 'loss_total': float(rng.uniform()), 'train_acc': .9}
        if kd == 'feature': r |= {'loss_mse': .1, 'loss_cos': .2}
        if norms: r |= {'grad_norm_max': 5.0/i}
        return r | ({'proj_grad_norm_max': .2/i} if bug else {})
    d = {'model': model, 'teacher': teacher, 'kd_type': kd, 'alpha': 0.5, 'temperature': 4.0, 'feat_beta': 0.5, 'stem': 'cifar', 'seed': seed, 'epochs': epochs,
         'best_val_acc': .91, 'best_val_epoch': 2, 'test_acc_best': accuracy, 'test_acc_final': accuracy - .01, 'history': [epoch(i + 1) for i in range(epochs)]}
    if norms: d |= {'no_proj_clip': bool(bug), 'grad_norm_max_overall': 5.0, 'proj_grad_norm_max_overall': .2 if bug else 0.0}
    return {**d, **more}


def members():
    "Two seeds of a small study, with the copies that the real archive has."
    made = {}
    pair = 'resnet50_to_resnet18'
    for s in 0, 1:
        made[f'runs/teachers/r50/seed{s}/results.json'] = results(s, model='resnet50', epochs=4, norms=False)
        made[f'runs/final/baseline/resnet18/seed{s}/results.json'] = results(s, accuracy=.94 + s/100)
        made[f'runs/stem_ablation/resnet18_cifar/seed{s}/results.json'] = results(s, accuracy=.94 + s/100)
        made[f'runs/stem_ablation/resnet18_imagenet/seed{s}/results.json'] = results(s + 7, stem='imagenet', accuracy=.88) | {'seed': s}
        for kd in 'logit', 'feature':
            made[f'runs/final/{pair}_{kd}/seed{s}/results.json'] = results(s, kd, teacher='resnet50')
            made[f'runs/final/{pair}_{kd}/seed{s}/fidelity.json'] = {'top1_agreement': .955, 'kl_t1': .2, 'kl_t4': .03}
        made[f'runs/bug_ablation/{pair}/feature_bugged/a0.5/seed{s}/results.json'] = results(s, 'feature', teacher='resnet50', bug=True)
    made[f'runs/select/{pair}/logit/a0.5_t4/seed0/results.json'] = results(0, 'logit', teacher='resnet50', norms=False)
    made[f'runs/select/{pair}/logit/a0.3_t4/seed0/results.json'] = results(0, 'logit', teacher='resnet50', norms=False, epochs=5, alpha=.3)
    return made


def archive(path, found, **how):
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z:
        for name, d in found.items(): z.writestr(name, d if isinstance(d, (str, bytes)) else json.dumps(d), **how)
    return path
