# The privileged half: from the PVH entry to 64-bit user mode, and the few things that only privilege level 0 may do.
#
# The rest runs at privilege level 3. A software KVM interprets level 0 and knows few of its instructions; level 3 it
# runs on the processor, so that everything a compiler makes works there.
#
# Sources: Xen's docs/misc/pvh; Intel SDM volume 3, chapters 4 (paging), 7 (interrupts), 11 (mode switching).

    .set CODE_64,   0x08            # selectors in the GDT below
    .set DATA,      0x10
    .set USER_DATA, 0x18 | 3
    .set USER_CODE, 0x20 | 3
    .set TASK,      0x28
    .set SERIAL_VECTOR,  0x24       # as in interrupts.rs
    .set SPURIOUS_VECTOR, 0x2f
    .set SERVICE_VECTOR, 6          # invalid opcode
    .set SERVICES, 0x5e410000       # RAX of the first service

    .section .note.pvh, "a", @note
    .long 4, 4, 18                  # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long pvh_start

    .section .entry, "ax"
    .code32
    .globl pvh_start
pvh_start:                          # EBX: hvm_start_info; paging and interrupts off, flat segments
    cld
    movl $kernel_stack_end, %esp
    # The first 4 GiB one to one, in pages of 2 MiB that user mode may use.
    movl $(pdpt + 7), pml4
    movl $directories, %edi
    movl $0x87, %eax                # present, writable, user, large
    xorl %ecx, %ecx
1:  movl %eax, (%edi, %ecx, 8)
    addl $0x200000, %eax
    incl %ecx
    cmpl $2048, %ecx
    jne 1b
    movl $(directories + 7), %eax
    movl $pdpt, %edi
    movl $5, %ecx                   # the fifth is the window's, whose pages come later
2:  movl %eax, (%edi)
    addl $0x1000, %eax
    addl $8, %edi
    decl %ecx
    jnz 2b
    movl $pml4, %eax
    movl %eax, %cr3
    movl $0x620, %eax               # PAE, OSFXSR, OSXMMEXCPT: user mode may use SSE
    movl %eax, %cr4
    movl $0xc0000080, %ecx          # EFER
    movl $0x100, %eax               # long mode enable
    xorl %edx, %edx
    wrmsr
    movl $0x80000033, %eax          # paging, numeric error, extension type, monitor coprocessor, protection
    movl %eax, %cr0
    lgdt gdt_pointer
    ljmp $CODE_64, $long_mode

    .code64
long_mode:
    movl $DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    # The task state segment's address goes into its descriptor, gates into the interrupt table. Vectors without a gate,
    # the exceptions among them, end in a triple fault, which is the host's to report.
    movl $tss, %eax
    movw %ax, gdt + TASK + 2
    shrl $16, %eax
    movb %al, gdt + TASK + 4
    movb %ah, gdt + TASK + 7
    movl $TASK, %eax
    ltr %ax
    movl $serial_interrupt, %eax
    movl $(idt + SERIAL_VECTOR * 16), %edi
    movl $0x8e00, %edx              # interrupt gate
    call set_gate
    movl $serial_interrupt, %eax
    movl $(idt + SPURIOUS_VECTOR * 16), %edi
    call set_gate
    movl $service, %eax
    movl $(idt + SERVICE_VECTOR * 16), %edi
    call set_gate
    lidt idt_pointer
    # Into user mode, interrupts off.
    movl $USER_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    pushq $USER_DATA
    pushq $(user_stack_end - 8)
    pushq $2
    pushq $USER_CODE
    pushq $start
    movl %ebx, %edi                 # the first argument
    xorl %ebp, %ebp
    iretq

set_gate:                           # EAX: handler, EDI: where, EDX: kind
    movw %ax, (%rdi)
    movw $CODE_64, 2(%rdi)
    movw %dx, 4(%rdi)
    shrl $16, %eax
    movw %ax, 6(%rdi)
    ret

serial_interrupt:                   # Comes only while `wait` sleeps, and only wakes it.
    pushq %rax
    movq end_of_interrupt, %rax
    movl $0, (%rax)
    popq %rax
    iretq

# UD2 in user mode: RAX says which; see `sys.rs` for arguments and results. It is the one trap that every KVM delivers:
# one that interprets level 0 does not do INT n. An invalid opcode that is no call ends in a triple fault too.
service:
    subl $SERVICES, %eax
    cmpl $8, %eax
    jae crash
    addq $2, (%rsp)                 # goes on behind the UD2
    jmp *service_table(, %rax, 8)
crash:
    lidt no_idt
    ud2

service_in8:                        # port DX -> EAX
    xorl %eax, %eax
    inb %dx, %al
    iretq
service_out8:                       # EDI -> port DX
    movl %edi, %eax
    outb %al, %dx
    iretq
service_cpuid:                      # leaf EDI, subleaf ECX -> EAX, EBX, ECX, EDX
    movl %edi, %eax
    cpuid
    iretq
service_rdmsr:                      # ECX -> EDX:EAX
    rdmsr
    iretq
service_wrmsr:                      # EDX:EDI -> ECX
    movl %edi, %eax
    wrmsr
    iretq
service_rdtsc:                      # -> EDX:EAX
    rdtsc
    iretq
service_wait:                       # Sleeps until the serial interrupt; EDI: where an interrupt's end is reported.
    movq %rdi, end_of_interrupt
    sti                             # takes effect after the next instruction
    hlt
    cli
    iretq
service_window:                     # Maps the 2 MiB that RDI begins at 4 GiB.
    orq $0x87, %rdi
    movq %rdi, directories + 0x4000
    movq %cr3, %rax
    movq %rax, %cr3
    iretq

    .section .rodata.entry, "a"
    .balign 8
service_table:
    .quad service_in8, service_out8, service_cpuid, service_rdmsr
    .quad service_wrmsr, service_rdtsc, service_wait, service_window

    .section .data.entry, "aw"
    .balign 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff        # 64-bit code
    .quad 0x00cf93000000ffff        # data
    .quad 0x00cff3000000ffff        # data for level 3
    .quad 0x00affb000000ffff        # 64-bit code for level 3
    .quad 0x0000890000000067, 0     # task state segment
gdt_pointer:
    .word . - gdt - 1
    .long gdt, 0
idt_pointer:
    .word idt_end - idt - 1
    .quad idt
no_idt:
    .word 0
    .quad 0
    .balign 8
    .long 0
tss:
    .long 0
    .quad kernel_stack_end          # RSP0
    .fill 88, 1, 0
    .word 0x68, 0                   # no I/O permission bitmap
end_of_interrupt:
    .quad 0

    .section .bss.entry, "aw", @nobits
    .balign 4096
pml4:
    .skip 4096
pdpt:
    .skip 4096
directories:
    .skip 5 * 4096
idt:
    .skip (SPURIOUS_VECTOR + 1) * 16
idt_end:
    .balign 16
    .skip 4096
kernel_stack_end:
    .skip 128 * 1024
user_stack_end:
