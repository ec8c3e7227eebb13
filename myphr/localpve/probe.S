# Boot sector of the probe guest (see accelerator.py). To assemble:
#   as -o probe.o probe.S && ld -Ttext 0x7c00 -m elf_x86_64 --oformat binary -o probe.bin probe.o
# Prints R in real mode, L in long mode, K after a trip to ring 3 and a page fault on the way back.
# A host whose virtual CPU hides SSE3, or that cannot run ring 3 code at speed, does not get to K in time.
.code16
start:
  cli
  xor %ax,%ax
  mov %ax,%ds
  mov %ax,%es
  mov %ax,%ss
  mov $0x7c00,%sp
  mov $0x3f8,%dx
  mov $'R',%al
  outb %al,%dx
  # PML4 at 0x1000, PDPT at 0x2000, PD at 0x3000 with one 2 MiB page open to ring 3; IDT at 0x4000; TSS at 0x5000
  mov $0x1000,%edi
  mov %edi,%cr3
  xor %eax,%eax
  mov $5120,%ecx
  cld
  rep stosl
  movl $0x2007,0x1000
  movl $0x3007,0x2000
  movl $0x0087,0x3000
  mov %cr4,%eax
  or $0x20,%eax
  mov %eax,%cr4
  mov $0xC0000080,%ecx
  rdmsr
  or $0x100,%eax
  wrmsr
  lgdtl gdtr
  mov %cr0,%eax
  or $0x80000001,%eax
  mov %eax,%cr0
  ljmp $0x08,$long64
.code64
long64:
  mov $0x3f8,%dx
  mov $'L',%al
  outb %al,%dx
  xor %eax,%eax
  inc %eax
  cpuid
  test $1,%cl
  jz dead
  # IDT: 14 = page fault, 0x80 = call from ring 3; both on the kernel stack that the TSS names
  mov $0x4000,%edi
  mov $fault,%eax
  movw %ax,14*16(%rdi)
  movl $0x8E000008,14*16+2(%rdi)
  mov $call80,%eax
  movw %ax,0x80*16(%rdi)
  movw $0x08,0x80*16+2(%rdi)
  movw $0xEE00,0x80*16+4(%rdi)
  movb $0x8E,14*16+5(%rdi)
  movb $0,14*16+4(%rdi)
  lidt idtr
  movl $0x7000,0x5004
  mov $0x28,%ax
  ltr %ax
  pushq $0x23
  pushq $0x7800
  pushq $0x02
  pushq $0x1B
  pushq $ring3
  iretq
ring3:
  mov $3000000,%ecx
1: dec %ecx
  jnz 1b
  int $0x80
call80:
  mov 0x400000,%al
dead:
  hlt
  jmp dead
fault:
  mov $0x3f8,%dx
  mov $'K',%al
  outb %al,%dx
  jmp dead
.align 8
gdt: .quad 0
  .quad 0x00209A0000000000
  .quad 0x0000920000000000
  .quad 0x0020FA0000000000
  .quad 0x0000F20000000000
  .quad 0x0000890050000067
  .quad 0
gdtr: .word 55
  .long gdt
idtr: .word 0x1000
  .quad 0x4000
.org 510
.word 0xaa55
