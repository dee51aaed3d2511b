package boot

// sysFinitModule is the number of finit_module(2), which package syscall lacks.
const sysFinitModule = 313
