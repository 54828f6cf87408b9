// SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
/*
 * plugin-host PLUGIN stays|goes: a thread loads and runs the plugin, unloads it, and ends. The
 * program fails if the plugin fails, if it is unloaded with "stays", or if it isn't with "goes".
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

static char *path;

static void *use(void *arg)
{
	void *plugin = dlopen(path, RTLD_NOW);
	int (*run)(void);

	(void)arg;
	if (!plugin) {
		fprintf(stderr, "%s\n", dlerror());
		return path;
	}
	run = (int (*)(void))dlsym(plugin, "plugin_run");
	if (!run || run() || dlclose(plugin))
		return path;
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	void *failed;

	if (argc != 3)
		return 2;
	path = argv[1];
	if (pthread_create(&thread, NULL, use, NULL) || pthread_join(thread, &failed) || failed)
		return 1;
	return !dlopen(path, RTLD_NOW | RTLD_NOLOAD) != !strcmp(argv[2], "goes");
}
