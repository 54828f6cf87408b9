/* SPDX-License-Identifier: LGPL-2.1-or-later OR MIT */
#ifndef EVPLMEM_ERROR_H
#define EVPLMEM_ERROR_H

void error_set(const char *format, ...) __attribute__((format(printf, 1, 2)));
void error_explain_mlockall(const char *doing);

#endif /* EVPLMEM_ERROR_H */
