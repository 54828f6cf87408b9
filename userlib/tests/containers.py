#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
"""containers.py: checks the files of examples/containers against the rules of their formats.

The rules are those of the specification of CDI that a file without hooks and mounts has to keep,
and the fields of Kubernetes that the manifests use: which there are, which must be there, and which
must have the same value. scripts/podman-check has podman use the CDI file. No cluster has seen the
manifests: kubectl checks nothing without a server.
"""
import os
import re
import sys

import tap
from tap import check

try:
    import yaml
except ImportError:
    print('1..0 # SKIP python3-yaml is missing: run scripts/packages')
    sys.exit(0)

DIRECTORY = os.path.join(os.path.dirname(os.path.realpath(__file__)), '../examples/containers')
DEVICE = '/dev/evpl'
NAME = r'[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?'
LABEL = r'[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?'
DOMAIN = rf'{LABEL}(?:\.{LABEL})*'

# The fields of objects: a type, or the fields of an object or of each object of a list. A name
# with a star must be there.
TEXTS = {'': str}
METADATA = {'name*': str, 'namespace': str, 'labels': TEXTS}
CONTAINER = {
    'name*': str, 'image*': str, 'args': [str], 'command': [str],
    'resources': {'limits': {'': (str, int)}, 'requests': {'': (str, int)}},
    'securityContext': {
        'privileged': bool, 'allowPrivilegeEscalation': bool, 'readOnlyRootFilesystem': bool,
        'capabilities': {'drop': [str]}},
    'volumeMounts': [{'name*': str, 'mountPath*': str}],
}
POD_SPEC = {
    'containers*': [CONTAINER], 'priorityClassName': str, 'restartPolicy': str,
    'tolerations': [{'operator': str, 'effect': str}],
    'securityContext': {'runAsUser': int, 'runAsNonRoot': bool, 'supplementalGroups': [int]},
    'volumes': [{'name*': str, 'hostPath*': {'path*': str}}],
}
KINDS = {
    ('v1', 'Pod'): {'apiVersion*': str, 'kind*': str, 'metadata*': METADATA, 'spec*': POD_SPEC},
    ('apps/v1', 'DaemonSet'): {
        'apiVersion*': str, 'kind*': str, 'metadata*': METADATA,
        'spec*': {'selector*': {'matchLabels*': TEXTS},
                  'template*': {'metadata*': {'labels*': TEXTS}, 'spec*': POD_SPEC}}},
}
DEVICE_NODE = {'path*': str, 'hostPath': str, 'type': str, 'major': int, 'minor': int,
               'fileMode': int, 'permissions': str, 'uid': int, 'gid': int}
CDI = {'cdiVersion*': str, 'kind*': str,
       'devices*': [{'name*': str, 'containerEdits*': {'env': [str], 'deviceNodes': [DEVICE_NODE]}}]}


def errors(value, form, where=''):
    """Yields where the value isn't of the form."""
    if isinstance(form, dict):
        if not isinstance(value, dict):
            yield f'{where} is no object'
            return
        fields = {name.rstrip('*'): part for name, part in form.items()}
        for name in form:
            if name.endswith('*') and name[:-1] not in value:
                yield f'{where} has no {name[:-1]}'
        for name, part in value.items():
            if name not in fields and '' not in fields:
                yield f'{where} may not have {name}'
            else:
                yield from errors(part, fields.get(name, fields.get('')), f'{where}.{name}')
    elif isinstance(form, list):
        if not isinstance(value, list) or not value:
            yield f'{where} is no list, or an empty one'
            return
        for number, part in enumerate(value):
            yield from errors(part, form[0], f'{where}[{number}]')
    elif not isinstance(value, form) or (isinstance(value, bool) and form is not bool):
        yield f'{where} is {value!r}'


def of_cdi(text):
    """Checks a CDI file."""
    spec = yaml.safe_load(text)
    wrong = list(errors(spec, CDI))
    check(not wrong, 'evpl.yaml has the fields of CDI 0.5.0, and no others', *wrong)
    check(spec['cdiVersion'] == '0.5.0', 'its version is one that podman 4.3 knows', spec)
    vendor, _, kind = spec['kind'].partition('/')
    check(re.fullmatch(DOMAIN, vendor) and len(vendor) <= 253 and vendor[0].isalpha() and
          re.fullmatch(NAME, kind) and len(kind) <= 63 and kind[0].isalpha(),
          'its kind is a vendor and a class', spec['kind'])
    names = [device['name'] for device in spec['devices']]
    check(all(re.fullmatch(NAME, name) for name in names) and len(set(names)) == len(names),
          'its devices have names of their own', names)
    nodes = [node for device in spec['devices']
             for node in device['containerEdits']['deviceNodes']]
    check([node['path'] for node in nodes] == [DEVICE], 'it gives one device', nodes)
    check(re.fullmatch('[rwm]+', nodes[0]['permissions']), 'its permissions are of r, w and m',
          nodes)
    return spec


def of_errors(spec):
    """Checks that the check finds errors."""
    device = spec['devices'][0]
    node = device['containerEdits']['deviceNodes'][0]
    bad = [{**spec, 'kind': 1}, {**spec, 'hooks': []}, {**spec, 'devices': []},
           {**spec, 'devices': [{'name': 'all'}]},
           {**spec, 'devices': [{**device, 'containerEdits': {'deviceNodes': [{'type': 'c'}]}}]},
           {**spec, 'devices': [{**device, 'containerEdits':
                                 {'deviceNodes': [{**node, 'uid': True}]}}]}]
    missed = [other for other in bad if not list(errors(other, CDI))]
    check(not missed, 'a field that is missing, unknown or of another type is found', *missed)


def of_kubernetes(text):
    """Checks the manifests."""
    objects = {each['kind']: each for each in yaml.safe_load_all(text)}
    wrong = [error for each in objects.values()
             for error in errors(each, KINDS.get((each['apiVersion'], each['kind']), {}))]
    check(not wrong, 'kubernetes.yaml has fields of Kubernetes alone, and those that must be', *wrong)
    check(sorted(objects) == ['DaemonSet', 'Pod'], 'it has a DaemonSet and a Pod', objects)
    names = [each['metadata']['name'] for each in objects.values()]
    check(all(re.fullmatch(DOMAIN, name) for name in names), 'their names are DNS names', names)

    spec = objects['DaemonSet']['spec']
    check(spec['selector']['matchLabels'] == spec['template']['metadata']['labels'],
          'the DaemonSet selects its own pods', spec)
    plugin = spec['template']['spec']
    volumes = sorted(volume['name'] for volume in plugin['volumes'])
    mounts = sorted(mount['name'] for mount in plugin['containers'][0]['volumeMounts'])
    check(volumes == mounts, 'each volume is mounted', volumes, mounts)
    arguments = plugin['containers'][0]['args']
    resource = yaml.safe_load(arguments[arguments.index('--device') + 1])
    wrong = list(errors(resource, {'name*': str, 'groups*': [
        {'count': int, 'paths*': [{'path*': str}]}]}))
    check(not wrong and [path['path'] for group in resource['groups'] for path in group['paths']] ==
          [DEVICE], 'the plugin serves the device', resource, *wrong)

    pod = objects['Pod']['spec']
    limits = pod['containers'][0]['resources']['limits']
    check(limits.get(f'squat.ai/{resource["name"]}') == 1, 'the pod asks for one of it', limits)
    check('memory' in limits, 'the pod has a limit of memory', limits)


def read(name):
    """The text of a file of examples/containers."""
    with open(os.path.join(DIRECTORY, name), encoding='ascii') as file:
        return file.read()


def main():
    """Runs all checks."""
    print('TAP version 13')
    of_errors(of_cdi(read('evpl.yaml')))
    of_kubernetes(read('kubernetes.yaml'))
    return tap.end()


sys.exit(main())
